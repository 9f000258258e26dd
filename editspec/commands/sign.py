"""``editspec sign``: a signature over the patches and the provenance of a build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.result import CommandResult, to_plain
from editspec.engine.signatures import Signer, sign_by_identity, sign_by_key
from editspec_runtime.errors import UsageError


@dataclass(frozen=True)
class SignResult(CommandResult):
    """The signature of a build folder: a sigstore bundle.

    Attributes
    ----------
    signature
        The file.
    signer
        Who signed; None where a key did.
    """

    signature: Path
    signer: Signer | None = None

    def to_dict(self) -> dict[str, Any]:
        """The signature as plain values; identity and issuer where an identity signed."""
        plain = {"signature": str(self.signature)}
        return plain if self.signer is None else plain | to_plain(self.signer)

    def to_text(self) -> str:
        """The path of the signature, and who signed."""
        if self.signer is None:
            return str(self.signature)
        return f"{self.signature}\nsigned by {self.signer.to_text()}"


def sign(
    folder: Path | str,
    key: Path | str | None = None,
    *,
    keyless: bool = False,
    trust_config: Path | str | None = None,
) -> SignResult:
    """Sign the patches and the statement of a build folder, with a key or with an identity.

    Parameters
    ----------
    folder
        The folder of a build with `provenance`.
    key
        A private key as PEM, on one of the curves P-256, P-384 and P-521.
    keyless
        Sign with the identity of this job of CI, or with that of a person who signs in.
    trust_config
        With `keyless`: the client trust config of an own Sigstore, as JSON.

    Raises
    ------
    UsageError
        The package model-signing is not installed, or not exactly one of `key` and `keyless` is
        given.
    FileError
        The trust config is none.
    SignatureError
        The folder holds no statement, or one of other patches; or the key or the identity cannot
        be used.
    """
    if (key is None) == (not keyless):
        raise UsageError("A signature is by a key or by an identity.", "Give --key or --keyless.")
    if key is None:
        config = None if trust_config is None else Path(trust_config)
        return SignResult(*sign_by_identity(Path(folder), config))
    if trust_config is not None:
        raise UsageError("A trust config is for signatures by an identity.", "Give --keyless.")
    return SignResult(sign_by_key(Path(folder), Path(key)))
