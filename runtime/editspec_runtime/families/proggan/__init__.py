"""The Progressive GAN family."""
