"""Text-to-image models with a U-Net, in folders of diffusers."""
