"""What can be looked at and measured, by modality."""
