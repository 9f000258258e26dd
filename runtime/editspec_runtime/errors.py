"""Errors of the runtime: files, weights, numbers, memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from editspec_runtime.codes import Code
from editspec_runtime.confidential import hide_secrets

MORE_MEMORY = (
    "End what else uses the memory of this device, take a device that has more (--device cpu, if "
    "this is a GPU), or an earlier layer, whose maps are smaller."
)


class EditError(Exception):
    """An error that a person can correct: bad weights, numbers, digests, files.

    Each subclass has a `code` of its own, which never changes its meaning.

    Parameters
    ----------
    message
        One sentence that says what is wrong and where, what was expected and what was found.
    hint
        One sentence that says what to do; printed after ``hint:`` on a line of its own.
    """

    code: ClassVar[Code] = Code.ERROR

    def __init__(self, message: str, hint: str = "") -> None:
        # Errors quote what they found, and are printed in logs that many people read.
        self.message = hide_secrets(message)
        self.hint = hide_secrets(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def as_json(self) -> dict[str, str]:
        """The code, the message and the hint as plain values."""
        return {"code": str(self.code), "message": self.message, "hint": self.hint}


class FileError(EditError):
    """A file or folder that is missing, unreadable, of a wrong kind, or in the way."""

    code = Code.FILE


class WrongPath(FileError):
    """A name that leads to no file of the kind that was asked for."""

    code = Code.PATH


class CodeError(FileError):
    """Foreign code that would have to run, and is not allowed to."""

    code = Code.CODE_NOT_ALLOWED


class WeightsError(EditError):
    """Weights that a model cannot be made from.

    Their layout is unknown, tensors are missing or have a wrong shape, or numbers are not finite.
    """

    code = Code.WEIGHTS


class NumericalError(EditError):
    """Numbers that give no answer.

    Examples are a singular second moment, too few directions, or a loss that is not finite.
    """

    code = Code.NUMBERS


class PatchError(EditError):
    """A patch that is damaged, or that does not fit the weights."""

    code = Code.PATCH


class LockError(EditError):
    """Inputs or artifacts that are not what a lock says."""

    code = Code.LOCK


class SignatureError(EditError):
    """A signature or a statement that is missing, of other files, or by another key."""

    code = Code.SIGNATURE


class UsageError(EditError):
    """A request for something that does not exist: a layer, a rank, an experiment."""

    code = Code.USAGE


class ProjectError(UsageError):
    """A file of a project that is wrong."""

    code = Code.PROJECT


class DeviceError(UsageError):
    """A request for a device that this machine does not have."""

    code = Code.DEVICE


class WorkerError(EditError):
    """Processes of a run that do not meet, do not compute alike, or have ended."""

    code = Code.WORKERS


class OutOfMemory(EditError):
    """Work that does not fit into the memory of its device."""

    code = Code.MEMORY


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, in Python or in torch."""
    if isinstance(error, MemoryError):
        return True
    # torch has a class of its own for a GPU's memory, but not for a CPU's: only the words tell.
    words = str(error)
    failed = "out of memory" in words or "can't allocate memory" in words
    return isinstance(error, RuntimeError) and failed


@contextmanager
def reading_foreign(name: object) -> Iterator[None]:
    """Turn whatever goes wrong while data of others are read into an error about them.

    Errors that say what is wrong pass. All others, of whatever library, become a `FileError` that
    names the data, or an `OutOfMemory`.
    """
    try:
        yield
    except EditError:
        raise
    except Exception as error:
        if hasattr(error, "problems"):  # of a spec, which names its places itself
            raise
        if is_out_of_memory(error):
            raise OutOfMemory(f"{name} does not fit into memory.", MORE_MEMORY) from error
        raise FileError(
            f"{name} cannot be read: it is damaged, or was not written for this.",
            "Copy or build it again.",
        ) from error


@contextmanager
def translate_memory_errors(work: str) -> Iterator[None]:
    """Raise an `OutOfMemory` about `work` if memory runs out inside the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{work} do not fit into memory.", MORE_MEMORY) from error
