"""A generator of curves: 16 numbers in, 64 samples of a wave out."""

from torch import Tensor, nn


class Curves(nn.Module):
    """A perceptron with two hidden layers."""

    latent_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.hidden = nn.Linear(64, 64)
        self.last = nn.Linear(64, 64)
        self.bend = nn.LeakyReLU(0.2)
        self.bend_again = nn.LeakyReLU(0.2)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents [n, 16] to samples [n, 64] of waves."""
        return self.last(self.bend_again(self.hidden(self.bend(self.first(latents)))))
