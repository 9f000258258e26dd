"""Executors: independent items of work in this process, or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from editspec_runtime.io.cache import Cache

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """The power to compute a function for many items.

    The results and their order do not depend on the executor. An executor that is pickled inside a
    function and travels to another process becomes `InProcess` there.
    """

    @property
    def workers(self) -> int:
        """The number of processes that may do the work."""
        ...

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
        *,
        memory: int = 0,
        threaded: bool = False,
    ) -> Iterator[Result]:
        """Yield the result of `function` for every item, in the order of the items.

        Work that is too small for other processes is computed in this one. Whoever ends the
        iteration early cancels what is not computed yet. The iteration itself tells how far the
        work is.

        Parameters
        ----------
        function
            The function. It and its results must pickle. In another process it shows no progress.
        items
            The items of work, which must pickle.
        device
            The device that does the work. Default: the CPU.
        memory
            The bytes that a process needs for an item, besides the interpreter and its libraries.
        threaded
            Whether `function` computes one item by all threads of its process.

        Raises
        ------
        EditError, SpecError
            `function` raised it, in whatever process.
        WorkerError
            There is no worker that can do the work, a worker computes in another environment, the
            workers have ended, or one met a defect.
        """
        ...


class InProcess:
    """The executor that computes everything in this process, item after item."""

    @property
    def workers(self) -> int:
        """The number of processes: one."""
        return 1

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
        *,
        memory: int = 0,
        threaded: bool = False,
    ) -> Iterator[Result]:
        """Yield the result of `function` for every item, in this process."""
        del device, memory, threaded
        return map(function, items)


IN_PROCESS = InProcess()
"""The executor that is used where none is given. It has no state."""


def map_cached(
    executor: Executor,
    cache: Cache,
    kind: str,
    function: Callable[[Item], dict[str, Tensor]],
    items: Mapping[str, Item],
    device: torch.device | None = None,
    *,
    memory: int = 0,
    threaded: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of every item, in order, from the cache or computed and kept.

    This process alone reads and writes the cache. So the workers need none, and a run that was
    killed goes on with all that had come back to it.

    Parameters
    ----------
    cache, kind
        The cache, and the kind of its entries.
    function
        The function from an item to its tensors on the CPU.
    items
        The items by their keys in the cache.
    device, memory, threaded
        As in `Executor.map`.
    """
    kept = {key for key in items if cache.path(kind, key).exists()}
    missing = [item for key, item in items.items() if key not in kept]
    computed = executor.map(function, missing, device, memory=memory, threaded=threaded)
    for key, item in items.items():
        if key not in kept:
            tensors = next(computed)
            cache.put(kind, key, tensors)
            yield tensors
            continue
        # An entry that is damaged is computed again.
        found, _ = cache.tensors(kind, key, partial(function, item))
        yield found
