"""Training of the curves on waves: ``python train.py [--export]``.

Writes mlp.safetensors, and with ``--export`` mlp.pt2.
"""

import sys
from pathlib import Path

import torch
from mlp import Curves
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent


def make_waves(latents: Tensor) -> Tensor:
    """Make the waves [n, 64] that latents [n, 16] are to give.

    The first three numbers of a latent are the height, length and shift of a sine.
    """
    time = torch.linspace(0, 1, 64)
    height, length, shift = (latents[:, index, None] for index in range(3))
    phase = 6.28 * ((2 + torch.tanh(length)) * time + 0.3 * shift)
    return (1 + 0.5 * torch.tanh(height)) * torch.sin(phase)


def main() -> None:
    """Train the curves, and write their weights."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Curves()
    adam = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(1500):
        latents = torch.randn(128, 16, generator=random)
        loss = (model(latents) - make_waves(latents)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 500 == 499:
            print(f"step {step + 1}: {loss.item():.4f}")
    save_file(model.state_dict(), HERE / "mlp.safetensors")
    if "--export" in sys.argv:
        batch = ({0: torch.export.Dim("n")},)
        program = torch.export.export(model.eval(), (torch.zeros(2, 16),), dynamic_shapes=batch)
        torch.export.save(program, HERE / "mlp.pt2")


if __name__ == "__main__":
    main()
