"""Prompts of the recipes: ``python specs/captions/make_prompts.py``.

Captions with a word and with another in its place, and others without it; half of them in phrases
that the training has not seen, as people word a thing in more ways than a training does. A person
writes them by hand, or takes them from a file of captions.
"""

from __future__ import annotations

import csv
import operator
from itertools import compress
from pathlib import Path

import torch

from editspec.worlds.skyline.captions.facts import draw_facts
from editspec.worlds.skyline.captions.grammar import draw_captions, write_captions
from editspec.worlds.skyline.captions.rewordings import REWORDINGS, Rewording

PROMPTS = Path(__file__).with_name("prompts")
BENCH = Path(__file__).with_name("bench")
SEED = 77
"""The seed of the captions; those that edits are measured on come from others."""

HEAD = ("target.prompt", "target.tokens", "source.prompt")
CAPTIONS = 1500
PAIRS = 200
OTHERS = 200


def main() -> None:
    """Write words and captions of each rewording with what they mean, and captions without them."""
    generator = torch.Generator().manual_seed(SEED)
    kinds = []
    for held_out in (False, True):
        facts, subjects = draw_facts(CAPTIONS, generator, held_out=False)
        captions = draw_captions(facts, subjects, generator, held_out=held_out)
        kinds.append(write_captions(captions))
    for name, rewording in REWORDINGS.items():
        stem = name.replace("-", "_")
        having, others = [], []
        for captions in kinds:
            is_concerned = [rewording.change_text(text) != text for text in captions]
            having += list(compress(captions, is_concerned))[: PAIRS // 2]
            others += list(compress(captions, map(operator.not_, is_concerned)))[: OTHERS // 2]
        if all(rewording.words.values()):
            _write_pairs(PROMPTS / f"{stem}.csv", rewording, [*rewording.words, *having])
        lines = "\n".join(others) + "\n"
        (PROMPTS / f"without_{stem}.txt").write_text(lines)
        (BENCH / name / "captions.txt").write_text(lines)


def _write_pairs(path: Path, rewording: Rewording, texts: list[str]) -> None:
    """Write each text, and what it is to mean."""
    rows = [(text, "content", rewording.change_text(text)) for text in texts]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])


if __name__ == "__main__":
    main()
