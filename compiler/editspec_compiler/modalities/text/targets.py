"""The search for the values of many facts, each kept by all that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from torch import Tensor

from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.environment import environment
from editspec_runtime.modalities.text.compatibility import Optimiser
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.targets import Request, find_shift


@dataclass(frozen=True)
class TargetSearch:
    """The search for shifts of the values of a layer.

    Attributes
    ----------
    model, layer
        The model, and the layer whose values are shifted.
    optimiser
        How a shift is found.
    cache
        Where shifts and losses are kept. Of many facts of which some change, only those are
        searched again.
    progress
        A callback that takes the evaluations that are done, and all.
    """

    model: LanguageModel
    layer: str
    optimiser: Optimiser
    cache: Cache
    progress: Callable[[int, int], None]

    def find(self, requests: Mapping[int, Request]) -> dict[int, Tensor]:
        """Find the shift of each request, [out]."""
        found = {}
        each = self.optimiser.evaluations
        for number, (index, request) in enumerate(requests.items()):
            found[index] = self._find(request, number * each, len(requests) * each)
            self.progress((number + 1) * each, len(requests) * each)
        return found

    def _find(self, request: Request, done: int, total: int) -> Tensor:
        def search() -> dict[str, Tensor]:
            shift = find_shift(
                self.model,
                self.layer,
                request,
                self.optimiser,
                lambda step: self.progress(done + step, total),
            )
            return {"shift": shift.shift, "losses": shift.losses}

        key = digest(self._shared | {"request": asdict(request)})
        tensors, _ = self.cache.tensors("targets", key, search)
        return tensors["shift"]

    @cached_property
    def _shared(self) -> dict[str, object]:
        """All that a shift depends on besides the request."""
        return {
            "layer": self.layer,
            "optimiser": asdict(self.optimiser),
            "model": dict(self.model.fingerprint()),
            "weights": self.model.weights.digest(),  # type: ignore[attr-defined]
            "environment": environment(self.model),
        }
