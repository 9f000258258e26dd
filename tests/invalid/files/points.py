"""A network for the examples of points that make no layer."""

from torch import Tensor, nn


class Network(nn.Module):
    latent_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.act = nn.ReLU()
        self.last = nn.Linear(6, 8)
        self.unused = nn.Linear(6, 8)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.act(self.first(z)))
