"""The share of the time of a second moment that is spent in products of matrices."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec_runtime.core.progress import no_progress
from editspec_runtime.io.cache import Cache

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
"""The operators that multiply matrices: those of the forward pass, and k k^T."""

ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
"""Two products with the softmax between them, as one operator."""


KEPT = "kept in the cache"

COUNTED = (*PRODUCTS, ATTENTION)

SHOWN = 8
"""The number of other operators that are shown, those of the most time."""


@dataclass(frozen=True)
class TimedCache(Cache):
    """A cache that notes how many seconds each entry took to be hashed and written."""

    seconds: list[float] = field(default_factory=list)

    def put(self, kind: str, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep the tensors of an entry."""
        begun = time.perf_counter()
        super().put(kind, key, tensors)
        self.seconds.append(time.perf_counter() - begun)


def measure_products(spec: Path, layer: str) -> dict[str, float]:
    """Measure C of a layer by a profiler, on one thread, with a cache of its own.

    Its time is all from the sample to the file of C in the cache: products, what else the layers
    compute, digests, and Python between. The sample itself is made before, and weights are read.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cache = TimedCache(Path(folder))
        session = BuildSession.of(spec, "cpu", no_progress, cache=cache)
        model = session.current_model()
        session.sample(model)
        cache.seconds.clear()
        with torch.profiler.profile() as profiler:
            begun = time.perf_counter()
            session.moment(model, layer)
            took = time.perf_counter() - begun
    spent = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    products = sum(spent.get(name, 0.0) for name in PRODUCTS)
    attention = spent.get(ATTENTION, 0.0)
    kept = sum(cache.seconds)
    parts = {"seconds": took, "products": products / took, "attention": attention / took}
    parts[KEPT] = kept / took
    others = {name: time / took for name, time in spent.items() if name not in COUNTED}
    for name in sorted(others, key=others.__getitem__, reverse=True)[:SHOWN]:
        parts[name] = others[name]
    return parts | {"outside of operators": 1 - (sum(spent.values()) + kept) / took}
