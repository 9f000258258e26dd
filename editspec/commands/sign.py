"""``editspec sign``: a signature over the patches and the provenance of a build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.engine.provenance import sign_folder
from editspec.engine.result import CommandResult


@dataclass(frozen=True)
class SignResult(CommandResult):
    """The signature of a build folder: a sigstore bundle."""

    signature: Path

    def to_text(self) -> str:
        """The path of the signature."""
        return str(self.signature)


def sign(folder: Path | str, key: Path | str) -> SignResult:
    """Sign the patches and the statement of a build folder.

    Parameters
    ----------
    folder
        The folder of a build with `provenance`.
    key
        A private key as PEM, on one of the curves P-256, P-384 and P-521.

    Raises
    ------
    UsageError
        The package model-signing is not installed.
    SignatureError
        The folder holds no statement, or one of other patches; or the key cannot be used.
    """
    return SignResult(sign_folder(Path(folder), Path(key)))
