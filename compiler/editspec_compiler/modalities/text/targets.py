"""The search for the values of many facts, each kept by all that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from torch import Tensor

from editspec_runtime.core.executor import IN_PROCESS, Executor, map_cached
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
    executor
        The executor of the searches, of which each is independent.
    """

    model: LanguageModel
    layer: str
    optimiser: Optimiser
    cache: Cache
    progress: Callable[[int, int], None]
    executor: Executor = IN_PROCESS

    def find(self, requests: Mapping[int, Request]) -> dict[int, Tensor]:
        """Find the shift of each request, [out]."""
        keys = self._keys(requests)
        # Facts that ask for the same have the same shift.
        by_key = {keys[index]: request for index, request in requests.items()}
        asked = {
            key: _Asked(request, number, len(by_key))
            for number, (key, request) in enumerate(by_key.items())
        }
        shifts = {}
        found = map_cached(
            self.executor,
            self.cache,
            "targets",
            self,
            asked,
            self.model.weight(self.layer).device,
        )
        for key, tensors in zip(asked, found, strict=True):
            shifts[key] = tensors["shift"]
            self._report(asked[key], self.optimiser.evaluations)
        return {index: shifts[key] for index, key in keys.items()}

    def count_missing(self, requests: Mapping[int, Request]) -> tuple[int, int]:
        """Count the searches for requests: all, and those whose shift is not in the cache."""
        keys = set(self._keys(requests).values())
        missing = [key for key in keys if not self.cache.path("targets", key).exists()]
        return len(keys), len(missing)

    def _keys(self, requests: Mapping[int, Request]) -> dict[int, str]:
        """The name in the cache of each request."""
        return {
            index: digest(self._shared | {"request": vars(request)})
            for index, request in requests.items()
        }

    def __call__(self, asked: _Asked) -> dict[str, Tensor]:
        """Search the shift of a request: ``shift`` and ``losses``, on the CPU."""
        found = find_shift(
            self.model,
            self.layer,
            asked.request,
            self.optimiser,
            lambda step: self._report(asked, step),
        )
        return {"shift": found.shift.cpu(), "losses": found.losses}

    def _report(self, asked: _Asked, steps: int) -> None:
        each = self.optimiser.evaluations
        self.progress(asked.number * each + steps, asked.count * each)

    def __getstate__(self) -> dict[str, Any]:
        """The state that travels to another process, which shows no progress."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**state, "progress": _show_nothing, "executor": IN_PROCESS}

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


@dataclass(frozen=True)
class _Asked:
    """A request, its number, and the number of all."""

    request: Request
    number: int
    count: int


def _show_nothing(done: int, total: int) -> None:
    """Show no progress."""
