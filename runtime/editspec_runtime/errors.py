"""What can go wrong below the language: files, weights, numbers."""


class EditError(Exception):
    """Something that a person can put right: bad weights, numbers, digests, files.

    Parameters
    ----------
    message
        What is wrong and where, what was expected and what was found.
    remedy
        What to do about it; printed on a line of its own.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class FileError(EditError):
    """A file or folder that is missing, unreadable, not what it should be, or in the way."""


class CodeError(FileError):
    """Code of others that would have to run, and is not allowed to."""


class WeightsError(EditError):
    """Weights of an unknown layout, with missing or misshaped tensors, or with values that are not finite."""


class NumericalError(EditError):
    """Numbers that cannot give an answer: a singular second moment, too few directions, a loss that is not finite."""


class PatchError(EditError):
    """A patch that is damaged, or that does not belong on the weights it was given."""


class LockError(EditError):
    """Inputs or artifacts that are not what a lock says."""


class UsageError(EditError):
    """Something that was asked for and that there is not: a layer, a rank, an experiment."""


class DeviceError(UsageError):
    """A device that was asked for and that this machine does not have."""
