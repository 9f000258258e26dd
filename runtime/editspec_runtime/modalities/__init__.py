"""Models of each modality: the parts that its families share."""
