"""Training of the DCGAN on discs and squares: ``python train.py [--export]``.

Writes dcgan.safetensors, and with ``--export`` dcgan.pt2.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from dcgan import Discriminator, Generator
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
STEPS = 600


def draw_shapes(count: int, random: torch.Generator) -> Tensor:
    """Draw discs and squares on dark ground, [count, 3, 32, 32] in -1..1."""
    centre = 10 + 12 * torch.rand(count, 2, 1, 1, generator=random)
    radius = 5 + 4 * torch.rand(count, 1, 1, generator=random)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    y, x = (rows - centre[:, 0]).abs(), (columns - centre[:, 1]).abs()
    is_disc = torch.rand(count, 1, 1, generator=random) < 0.5
    # Circles of equal distance are discs by the Euclidean norm, and squares by the maximum norm.
    distance = torch.where(is_disc, (x.square() + y.square()).sqrt(), torch.maximum(x, y))
    # The half pixel blends the edge.
    inside = (radius - distance + 0.5).clamp(0, 1)[:, None]
    colour = torch.rand(count, 3, 1, 1, generator=random)
    return 2 * (0.1 + inside * (colour - 0.1)) - 1


def main() -> None:
    """Train the networks, and write the generator."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator, discriminator = Generator(), Discriminator()
    adams = [
        torch.optim.Adam(net.parameters(), lr=4e-4, betas=(0.5, 0.999))
        for net in (generator, discriminator)
    ]
    for step in range(STEPS):
        fake = generator(torch.randn(64, 24, 1, 1, generator=random))
        real = draw_shapes(64, random)
        # The non-saturating losses of Goodfellow et al. 2014; softplus(-x) is -log sigmoid(x).
        judged, true = discriminator(fake.detach()), discriminator(real)
        loss = F.softplus(judged).mean() + F.softplus(-true).mean()
        adams[1].zero_grad()
        loss.backward()
        adams[1].step()
        deceit = F.softplus(-discriminator(fake)).mean()
        adams[0].zero_grad()
        deceit.backward()
        adams[0].step()
        if step % 100 == 99:
            print(
                f"step {step + 1}: generator {deceit.item():.3f}, discriminator {loss.item():.3f}"
            )
    save_file(generator.state_dict(), HERE / "dcgan.safetensors")
    if "--export" in sys.argv:
        batch = ({0: torch.export.Dim("n")},)
        program = torch.export.export(
            generator.eval(), (torch.zeros(2, 24, 1, 1),), dynamic_shapes=batch
        )
        torch.export.save(program, HERE / "dcgan.pt2")


if __name__ == "__main__":
    main()
