"""The modality of models that draw what a prompt says."""
