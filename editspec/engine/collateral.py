"""The predicted collateral of a patch as one number. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editspec_runtime.patches.patch import Patch


def predicted_collateral(patch: Patch) -> float:
    """E |dW k|^2 / E |W k|^2 over all keys, the correlation of taps included.

    Where a patch changes several layers, the largest of them counts.
    """
    return largest_collateral(patch.metadata["collateral"])


def largest_collateral(layers: Mapping[str, Any]) -> float:
    """The largest collateral of some layers, from what a patch says of each."""
    return max((layer["correlated"] for layer in layers.values()), default=0.0)
