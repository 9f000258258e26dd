"""What can go wrong below the language: files, weights, numbers, memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from editspec_runtime.codes import Code

MORE_MEMORY = (
    "End what else uses the memory of this device, take a device that has more (--device cpu, if this is a GPU), or an "
    "earlier layer, whose maps are smaller."
)


class EditError(Exception):
    """Something that a person can put right: bad weights, numbers, digests, files.

    Parameters
    ----------
    message
        What is wrong and where, what was expected and what was found.
    hint
        What to do about it; printed on a line of its own.

    Each subclass has a `code` of its own, which never changes its meaning.
    """

    code: ClassVar[Code] = Code.ERROR

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def as_json(self) -> dict[str, str]:
        """The code, the message and the hint as plain values."""
        return {"code": str(self.code), "message": self.message, "hint": self.hint}


class FileError(EditError):
    """A file or folder that is missing, unreadable, not what it should be, or in the way."""

    code = Code.FILE


class CodeError(FileError):
    """Code of others that would have to run, and is not allowed to."""

    code = Code.CODE_NOT_ALLOWED


class WeightsError(EditError):
    """Weights of an unknown layout, with missing or misshaped tensors, or with values that are not
    finite.
    """

    code = Code.WEIGHTS


class NumericalError(EditError):
    """Numbers that cannot give an answer: a singular second moment, too few directions, a loss that
    is not finite.
    """

    code = Code.NUMBERS


class PatchError(EditError):
    """A patch that is damaged, or that does not belong on the weights it was given."""

    code = Code.PATCH


class LockError(EditError):
    """Inputs or artifacts that are not what a lock says."""

    code = Code.LOCK


class SignatureError(EditError):
    """A signature or a statement that is missing, or is not of these files, or not by this key."""

    code = Code.SIGNATURE


class UsageError(EditError):
    """Something that was asked for and that there is not: a layer, a rank, an experiment."""

    code = Code.USAGE


class DeviceError(UsageError):
    """A device that was asked for and that this machine does not have."""

    code = Code.DEVICE


class WorkerError(EditError):
    """Processes of one run that do not find one another, do not compute alike, or have ended."""

    code = Code.WORKERS


class OutOfMemory(EditError):
    """Work that does not fit into the memory of its device."""

    code = Code.MEMORY


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of an allocation: of Python, of torch on a GPU, of torch on a
    CPU.
    """
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in said or "can't allocate memory" in said)
    )


@contextmanager
def naming_memory(work: str) -> Iterator[None]:
    """Raise an `OutOfMemory` about `work` where memory ends within this."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{work} do not fit into memory.", MORE_MEMORY) from error
