"""Work in parts, each computed by one thread.

Libraries add up in another order when several threads share a sum or a product, and then give other
bits. So no operation is shared here. The parts follow from the work alone, and the number of
threads says only how many parts are computed at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, local
from typing import TypeVar, cast

import torch

from editspec_runtime.core.model import Model, Separable

Item = TypeVar("Item")
Result = TypeVar("Result")
AnyModel = TypeVar("AnyModel", bound=Model)

MOST_NUMBERS = 2**26
"""The largest amount of numbers in the maps of all parts that are computed at once.

With it, StyleGAN2 at 1024 x 1024 fits into 6 GB.
"""


@dataclass
class _Sharing:
    """The threads that torch used for an operation before the first of several blocks began."""

    lock: Lock = field(default_factory=Lock)
    blocks: int = 0
    threads: int = 1


class _Thread(local):
    """The state of one thread: the blocks that it is in, and whether it computes a part."""

    blocks = 0
    in_part = False


_SHARING = _Sharing()
_THREAD = _Thread()


@contextmanager
def unshared_operations() -> Iterator[None]:
    """Compute every operation of this thread by this thread alone, inside the block.

    Behind the block, torch takes as many threads as before. Blocks may lie in one another, and
    several threads may be in blocks.
    """
    with _SHARING.lock:
        if not _SHARING.blocks:
            _SHARING.threads = torch.get_num_threads()
        _SHARING.blocks += 1
    _THREAD.blocks += 1
    try:
        torch.set_num_threads(1)
        yield
    finally:
        _THREAD.blocks -= 1
        with _SHARING.lock:
            _SHARING.blocks -= 1
            if not _THREAD.blocks and not _THREAD.in_part:
                torch.set_num_threads(_SHARING.threads)


def count_threads() -> int:
    """The number of parts that this thread may have computed at once.

    It is the number of threads that torch is set to, and 1 inside a part.
    """
    if _THREAD.in_part:
        return 1
    with _SHARING.lock:
        return _SHARING.threads if _SHARING.blocks else torch.get_num_threads()


class Threads:
    """Some threads that compute parts, as a context.

    Parameters
    ----------
    count
        The number of parts that are computed at once. With 1, all are computed by the thread that
        asks for them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, "part", _begin_part) if count > 1 else None

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield the result of `function` for every item, in the order of the items.

        Gradients are recorded if the caller records them. Only a few results are held at a time.
        """
        if self._pool is None or len(items) < 2:
            for item in items:
                with unshared_operations():
                    result = function(item)
                yield result
            return
        recording = torch.is_grad_enabled()

        def compute(item: Item) -> Result:
            # Whether gradients are recorded belongs to a thread.
            with torch.set_grad_enabled(recording):
                return function(item)

        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(compute, item))
                # One more than there are threads, so that none waits while a result is used.
                if len(waiting) > self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def separate_models(model: AnyModel, numbers: int, parts: int) -> list[AnyModel]:
    """The models that compute parts at once, one for each thread: the model itself, and equal ones.

    There is only the model itself on a GPU, which shares every operation in one order, and where
    the model cannot be used by several threads.

    Parameters
    ----------
    model
        The model.
    numbers
        The amount of numbers in the largest map of a part.
    parts
        The number of parts.
    """
    if not isinstance(model, Separable):
        return [model]
    if next(iter(model.weights.values())).device.type != "cpu":
        return [model]
    count = min(count_threads(), parts, MOST_NUMBERS // max(numbers, 1))
    others = [cast(AnyModel, model.separate()) for _ in range(1, count)]
    return [model, *others]


def map_parts(
    functions: Sequence[Callable[[Item], Result]], items: Sequence[Item]
) -> Iterator[Result]:
    """Yield the result of every item, in the order of the items, computed by several threads.

    Parameters
    ----------
    functions
        Functions that give equal results. Each is called by one thread at a time, so that there are
        as many as items may be computed at once.
    items
        The items, each of which is one part.
    """
    free: SimpleQueue[Callable[[Item], Result]] = SimpleQueue()
    for function in functions:
        free.put(function)

    def compute(item: Item) -> Result:
        own = free.get()
        try:
            return own(item)
        finally:
            free.put(own)

    with Threads(min(len(functions), len(items) or 1)) as threads:
        yield from threads.map(compute, items)


def _begin_part() -> None:
    """Make a new thread compute its operations alone."""
    _THREAD.in_part = True
    # The setting belongs to a thread. In a thread that was just begun, libraries would take theirs
    # from the environment.
    torch.set_num_threads(1)
