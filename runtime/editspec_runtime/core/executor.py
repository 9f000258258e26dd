"""Executors: independent items of work in this process, or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """The power to compute a function for many items.

    The results and their order do not depend on the executor. An executor that is pickled inside a
    function and travels to another process becomes `InProcess` there.
    """

    @property
    def workers(self) -> int:
        """The number of processes that do the work."""
        ...

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
    ) -> Iterator[Result]:
        """Yield the result of `function` for every item, in the order of the items.

        Parameters
        ----------
        function
            The function. It and its results must pickle. It reports no progress.
        items
            The items of work.
        device
            The device that does the work. Default: the CPU.

        Raises
        ------
        EditError
            `function` raised it, in whatever process.
        WorkerError
            Another process has ended, computes in another environment, or met a defect.
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
    ) -> Iterator[Result]:
        """Yield the result of `function` for every item, in this process."""
        del device
        return map(function, items)


IN_PROCESS = InProcess()
"""The executor that is used where none is given. It has no state."""
