"""The generator of a DCGAN: 24 numbers in, an image of 32 x 32 pixels out."""

from torch import Tensor, nn


class Generator(nn.Module):
    """A small DCGAN: transposed convolutions, batch norm, ReLU (Radford et al. 2015)."""

    latent_shape = (24, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(24, 64, 4, 1, 0, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(True),
            nn.ConvTranspose2d(64, 48, 4, 2, 1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(True),
            nn.ConvTranspose2d(48, 32, 4, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(True),
            nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Draw latents [n, 24, 1, 1] as images [n, 3, 32, 32] in -1..1."""
        return self.main(latents)


class Discriminator(nn.Module):
    """The adversary of the generator, which only the training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(32, 48, 4, 2, 1, bias=False),
            nn.BatchNorm2d(48),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(48, 64, 4, 2, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(64, 1, 4, 1, 0),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Judge images [n, 3, 32, 32]: logits [n] of being real."""
        return self.main(images).flatten()
