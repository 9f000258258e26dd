"""The part of the studio that each modality has of its own."""
