"""Where independent items of work are computed: in this process, or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Computes a function for many items.

    What is computed does not depend on the executor, and neither does the order of the results. An
    executor that travels to another process inside of a pickled function is `InProcess` there.
    """

    @property
    def workers(self) -> int:
        """How many processes do the work."""
        ...

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
    ) -> Iterator[Result]:
        """Yield what `function` gives for every item, in the order of the items.

        Parameters
        ----------
        function
            Must pickle, as its results must; it reports nothing on the way.
        items
            The items of work.
        device
            Where the work is done. Default: the CPU.

        Raises
        ------
        EditError
            As `function` does, in whatever process.
        WorkerError
            Another process has ended, computes in another environment, or met a defect.
        """
        ...


class InProcess:
    """The executor that computes everything in this process, item after item."""

    @property
    def workers(self) -> int:
        """One."""
        return 1

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
    ) -> Iterator[Result]:
        """Yield what `function` gives for every item, where the items lie."""
        del device
        return map(function, items)


IN_PROCESS = InProcess()
"""The executor where none is given; it has no state."""
