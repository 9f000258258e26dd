"""StyleGAN2: the layout of its checkpoints and its network."""
