"""Weights that packages ship, by their ``builtin:`` names."""

from __future__ import annotations

from pathlib import Path

BUILTINS: dict[str, Path] = {}
"""The file of each name, such as ``builtin:skyline``; the front door and tests fill it."""


def register_builtin(name: str, weights: Path) -> None:
    """Make ``builtin:NAME`` name a file of weights."""
    BUILTINS[f"builtin:{name}"] = weights
