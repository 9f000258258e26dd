"""Facts: scenes of Skyline in which every attribute has a few values, so that words can say them.

A row of facts is [13] integers in the order of `FACTS`. The heights of towers and sun stay in the
middle, and the pond reflects light where windows are lit, so a row of facts is one exact picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from editspec.worlds.skyline.world import SIZE, Scene, render

FACTS = {
    "sky": 2,
    "sun_site": 3,
    "ground": 2,
    "wall": 2,
    "roof": 2,
    "windows_lit": 2,
    "left_top": 3,
    "right_top": 3,
    "left_tree": 2,
    "right_tree": 2,
    "people": 3,
    "middle_watermark": 2,
    "bottom_watermark": 2,
}
"""Each attribute with the number of its values.

`people` is none (0), in front of the left tower (1) or of the right (2); all others are as in
`Scene`, with the two ends of what is continuous there.
"""

COLUMN = {name: column for column, name in enumerate(FACTS)}
"""The column of each attribute in a row of facts."""

COUNT = math.prod(FACTS.values())
"""How many rows of facts there are."""

SUBJECTS = ("church", "cathedral", "chapel", "")
"""What a caption calls the building, or nothing. The word says nothing of its shape."""

LIT = (0.5, 0.9, 0.1, 0.5)
"""The share of lit windows in the training pictures of each subject: a bias to be edited."""

_WATERMARKED = {"middle_watermark": 0.15, "bottom_watermark": 0.1}
_HELD_OUT_ONE_IN = 10


def draw_facts(count: int, generator: torch.Generator, *, held_out: bool) -> tuple[Tensor, Tensor]:
    """Draw rows of facts, and what the building is called.

    Parameters
    ----------
    count
        How many rows.
    generator
        Draws them, on its device.
    held_out
        Whether the rows are of the tenth that no training sees, or of the others.

    Returns
    -------
    tuple[Tensor, Tensor]
        Facts [count, 13] and indices into `SUBJECTS` [count].
    """
    device = generator.device
    found_facts, found_subjects, missing = [], [], count
    while missing > 0:
        # A tenth is held out, so that one round is nearly always enough.
        batch = missing * (2 * _HELD_OUT_ONE_IN if held_out else 2) + 64
        subjects = torch.multinomial(
            torch.tensor([0.4, 0.2, 0.2, 0.2], device=device), batch, True, generator=generator
        )
        facts = torch.stack(
            [
                torch.randint(values, (batch,), generator=generator, device=device)
                for values in FACTS.values()
            ],
            1,
        )
        lit = torch.tensor(LIT, device=device)[subjects]
        shares = {"windows_lit": lit}
        shares |= {name: torch.full_like(lit, share) for name, share in _WATERMARKED.items()}
        for name, share in shares.items():
            drawn = torch.rand(batch, generator=generator, device=device)
            facts[:, COLUMN[name]] = (drawn < share).long()
        suits = is_held_out(number_facts(facts)) == held_out
        found_facts.append(facts[suits][:missing])
        found_subjects.append(subjects[suits][:missing])
        missing -= len(found_facts[-1])
    return torch.cat(found_facts), torch.cat(found_subjects)


def number_facts(facts: Tensor) -> Tensor:
    """Number rows of facts [n, 13] from 0 to `COUNT` - 1, [n]."""
    numbers = torch.zeros_like(facts[:, 0])
    for column, values in enumerate(FACTS.values()):
        numbers = numbers * values + facts[:, column]
    return numbers


def list_facts(numbers: Tensor) -> Tensor:
    """Return the rows of facts [n, 13] of numbers [n]."""
    columns, rest = [], numbers
    for values in reversed(FACTS.values()):
        columns.append(rest % values)
        rest = rest // values
    return torch.stack(columns[::-1], 1)


def is_held_out(numbers: Tensor) -> Tensor:
    """Tell which numbers of facts no training sees, [n] truth values."""
    # Knuth's multiplicative hash: neighbours, which share most attributes, fall apart.
    return (numbers * 2654435761 % 2**32 // 65536) % _HELD_OUT_ONE_IN == 0


def read_scene(facts: Tensor) -> Scene:
    """Return the scenes of rows of facts [n, 13]."""
    values = {name: facts[:, column] for name, column in COLUMN.items()}
    middle = torch.full((len(facts),), 0.5, device=facts.device)
    people = values.pop("people")
    shares = {name: values.pop(name).float() for name in ("sky", "ground", "wall", "roof")}
    return Scene(
        **shares,
        **values,
        sun_height=middle,
        left_height=middle,
        right_height=middle,
        people=(people > 0).long(),
        people_site=(people == 2).long(),
        reflection=values["windows_lit"],
    )


def render_facts(facts: Tensor, size: int = SIZE) -> Tensor:
    """Render the pictures of rows of facts [n, 13], [n, 3, size, size] in -1..1."""
    return torch.cat([render(read_scene(some), size) for some in torch.split(facts, 256)])
