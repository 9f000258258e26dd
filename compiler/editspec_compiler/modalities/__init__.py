"""The languages of the modalities."""
