"""The language of images: latents, masks, copy and paste."""
