"""Checkpoints of trainings that go on where they were interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from editspec_runtime.io.files import open_output


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, which replaces the last one in one step."""
    with open_output(path) as file:
        torch.save(dict(state), file)
