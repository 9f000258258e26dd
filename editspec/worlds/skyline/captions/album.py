"""An album: the rendered pictures of facts, each rendered once."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.facts import COUNT, list_facts, number_facts, render_facts
from editspec.worlds.skyline.world import SIZE


class Album:
    """Pictures with 8 bits, rendered where they are asked for, and kept."""

    def __init__(self, device: torch.device) -> None:
        self.pictures = torch.zeros(COUNT, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
        self.known = torch.zeros(COUNT, dtype=torch.bool, device=device)
        self.complete = False

    def render_all(self) -> None:
        """Render all pictures there are, which a graphics card does in seconds."""
        self._render(torch.arange(COUNT, device=self.known.device))
        self.complete = True

    def find(self, facts: Tensor) -> Tensor:
        """Find the pictures [n, 3, 64, 64] in -1..1 of rows of facts [n, 13]."""
        numbers = number_facts(facts)
        if not self.complete:
            missing = torch.unique(numbers[~self.known[numbers]])
            self._render(missing)
        return self.pictures[numbers].float() / 127.5 - 1

    def _render(self, numbers: Tensor) -> None:
        for some in torch.split(numbers, 512):
            pictures = render_facts(list_facts(some))
            self.pictures[some] = ((pictures + 1) * 127.5).round().byte()
            self.known[some] = True
