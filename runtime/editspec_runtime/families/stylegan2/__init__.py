"""The StyleGAN2 family."""
