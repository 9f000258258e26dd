"""What the families of one modality share."""
