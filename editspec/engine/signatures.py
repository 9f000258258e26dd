"""Signatures over the patches and the statement of a build folder: by a key, or by an identity.

Both are sigstore bundles over the same statement, which the package model-signing makes.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.folder import STATEMENT
from editspec.engine.patch_files import PATCHES
from editspec.engine.provenance import require_statement
from editspec_runtime.errors import EditError, FileError, SignatureError, UsageError
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.files import file_digest, require_file, write
from editspec_runtime.io.json_text import parse_json
from editspec_runtime.io.remote_cache import is_offline

SIGNATURE = "model.sig"
"""The signature in a build folder, as the model-signing package calls it."""

ISSUER = "1.3.6.1.4.1.57264.1.1"
"""The extension of Sigstore's certificates that says who vouches for the identity."""

CURVES = "of one of the curves P-256, P-384 and P-521, as PEM without a password"

DOUBT = "Do not use the files before you know why."

CONNECT = "Check the connection, or name your own Sigstore by --trust-config."

SIGN_IN = "Sign in with an identity that this Sigstore knows."

SIGNING = {
    "TUFError": ("the keys of the public Sigstore cannot be fetched", CONNECT),
    "NetworkError": ("the service for signing in cannot be reached", CONNECT),
    "IssuerError": ("the service for signing in gives no sound answer", CONNECT),
    "IdentityError": ("the identity token cannot be used", SIGN_IN),
    "ExpiredIdentity": ("the identity token has expired", "Sign again."),
    "EOFError": ("nobody signed in", SIGN_IN),
    "FulcioClientError": ("the certificate authority refuses the identity", SIGN_IN),
    "ExpiredCertificate": ("the certificate has expired", "Sign again."),
    "RekorClientError": ("the transparency log does not take the signature", "Sign again later."),
    "VerificationError": ("the certificate is not of this Sigstore", CONNECT),
    "ConnectionError": ("a service of Sigstore cannot be reached", CONNECT),
    "Exception": ("a service of Sigstore gives no sound answer", CONNECT),
}
"""What the errors of sigstore mean while it signs, by their classes, and what helps."""

VERIFYING = {
    "TUFError": ("the keys of the public Sigstore cannot be fetched", CONNECT),
    "CertValidationError": (
        "its certificate is not of this Sigstore, or had expired when it signed",
        DOUBT,
    ),
    "Exception": (
        "the signature, its certificate or its entry in the transparency log was changed",
        DOUBT,
    ),
}
"""The same while it verifies."""


@dataclass(frozen=True)
class Signer:
    """Who signed, as the certificate of a signature says.

    Attributes
    ----------
    identity
        An e-mail address, or the address of a workflow.
    issuer
        The service that vouches for the identity.
    """

    identity: str
    issuer: str

    def to_text(self) -> str:
        """The signer for people."""
        return f"{self.identity} (vouched for by {self.issuer})"


def sign_by_key(folder: Path, key: Path) -> Path:
    """Sign the patches and the statement of a build folder with a private key.

    Returns the signature. Raises `UsageError` where the package model-signing is not installed, and
    `SignatureError` where the folder holds no statement, or one of other patches, or the key cannot
    be used.
    """
    signing = load_extra("signing", "signing")
    require_statement(folder)
    require_file(key)
    words = {"Exception": ("it is not a private key that can be used", f"Give one {CURVES}.")}
    with _translate(f"{folder} cannot be signed with {key}", words):
        config = signing.Config().use_elliptic_key_signer(private_key=key)
        return _write_signature(folder, config)


def sign_by_identity(folder: Path, trust_config: Path | None) -> tuple[Path, Signer]:
    """Sign the patches and the statement of a build folder with an identity, and no key.

    The identity is that of the job where this is one of a CI that gives tokens. Elsewhere a person
    signs in by a browser. Sigstore makes a certificate of it for a few minutes, and the signature
    is entered in a public log.

    Parameters
    ----------
    folder
        The folder of a build with a statement.
    trust_config
        The client trust config of an own Sigstore; None for the public one.

    Returns
    -------
    tuple
        The signature, and who signed.

    Raises
    ------
    UsageError
        The package model-signing is not installed.
    FileError
        The trust config is none.
    SignatureError
        The folder holds no statement, or one of other patches; or there is no identity, or a
        service refuses it or cannot be reached.
    """
    signing = load_extra("signing", "signing")
    require_statement(folder)
    _require_instance(trust_config, online=True)
    token = _find_token()
    # The library asks for a code on stdout, which belongs to the answer.
    with _translate(f"{folder} cannot be signed", SIGNING), redirect_stdout(sys.stderr):
        config = signing.Config().use_sigstore_signer(
            identity_token=token, use_ambient_credentials=False, trust_config=trust_config
        )
        path = _write_signature(folder, config)
    return path, _read_signers(path)[0]


def require_key(patches: Sequence[Path], public_key: Path) -> None:
    """Raise a `SignatureError` unless this key signed the build folder of the patches.

    All of the folder's patches and its statement are compared to the byte. Raises `UsageError`
    where the package model-signing is not installed, or the patches are not of one folder.
    """
    verifying = load_extra("signing", "verifying")
    folder = _signed_folder(patches)
    require_file(public_key)
    words = {"Exception": ("it is not a public key that can be used", f"Give one {CURVES}.")}
    with _translate(f"{folder} cannot be verified with {public_key}", words):
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    signature = _find_signature(folder)
    if "certificate" in _read_material(signature):
        raise SignatureError(
            f"{folder} is signed by an identity, and not by a key.", "Give --identity WHO."
        )
    what = f"The signature of {folder} is not that of its files by this key"
    words = {"Exception": ("another key signed, or the signature was changed", DOUBT)}
    _verify(folder, signature, config, what, words)


def require_identity(
    patches: Sequence[Path], identity: str, issuer: str, trust_config: Path | None
) -> Signer:
    """Return who signed the build folder of the patches, which must be this identity.

    All of the folder's patches and its statement are compared to the byte.

    Parameters
    ----------
    patches
        The patches, of one folder.
    identity
        The e-mail address, or the address of a workflow, that must have signed.
    issuer
        The service that must vouch for it.
    trust_config
        The client trust config of an own Sigstore, with which nothing is asked over the network;
        None for the public one.

    Raises
    ------
    UsageError
        The package model-signing is not installed, or the patches are not of one folder.
    FileError
        The trust config is none.
    SignatureError
        The folder is not signed, or by another, or with other files; or the signature is not sound.
    """
    verifying = load_extra("signing", "verifying")
    folder = _signed_folder(patches)
    signature = _find_signature(folder)
    _require_instance(trust_config, online=False)
    if "publicKey" in _read_material(signature):
        raise SignatureError(
            f"{folder} is signed by a key, and not by an identity.", "Give --public-key PEM."
        )
    signers = _read_signers(signature)
    found = [signer for signer in signers if signer.identity == identity]
    if not found:
        raise SignatureError(
            f"{folder} is signed by {signers[0].identity}, and not by {identity}.", DOUBT
        )
    if issuer != found[0].issuer:
        raise SignatureError(
            f"For {identity}, who signed {folder}, {found[0].issuer} vouches, and not {issuer}.",
            DOUBT,
        )
    with _translate(f"The signature of {folder} cannot be verified", VERIFYING):
        config = verifying.Config().use_sigstore_verifier(
            identity=identity, oidc_issuer=issuer, trust_config=trust_config
        )
    what = f"The signature of {folder} is not that of its files by {identity}"
    _verify(folder, signature, config, what, VERIFYING)
    return found[0]


def find_other_files(folder: Path, signature: Path) -> list[str]:
    """Name the files that are not as a signature lists them; none where it lists nothing."""
    try:
        payload = parse_json(signature.read_bytes())["dsseEnvelope"]["payload"]
        resources = parse_json(base64.b64decode(payload))["predicate"]["resources"]
        listed = {str(each["name"]): each["digest"] for each in resources}
    except (OSError, ValueError, LookupError, TypeError):
        return []
    files = [folder / STATEMENT, *sorted((folder / PATCHES).rglob("*"))]
    found = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in files if path.is_file()
    }
    names = sorted(listed.keys() | found.keys())
    return [name for name in names if listed.get(name) != found.get(name)]


def _write_signature(folder: Path, config: Any) -> Path:
    """Sign a folder, and put the signature there once it is whole."""
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / SIGNATURE
        config.set_hashing_config(_hash_settings(folder)).sign(folder, made)
        data = made.read_bytes()
    write(folder / SIGNATURE, data)
    return folder / SIGNATURE


def _verify(
    folder: Path,
    signature: Path,
    config: Any,
    what: str,
    words: Mapping[str, tuple[str, str]],
) -> None:
    """Raise a `SignatureError` unless a signature is sound and of the files of a folder."""
    with _translate(what, words):
        try:
            config.set_hashing_config(_hash_settings(folder)).verify(folder, signature)
        except Exception as error:
            others = find_other_files(folder, signature)
            if others:
                raise SignatureError(
                    f"{what}: not as they were signed are {', '.join(others)}.", DOUBT
                ) from error
            raise
    require_statement(folder)


def _signed_folder(patches: Sequence[Path]) -> Path:
    """Return the build folder of patches; raise a `UsageError` where they are not of one."""
    folders = {path.absolute().parent for path in patches}
    first = next(iter(folders), None)
    if first is None or len(folders) > 1 or first.name != PATCHES:
        raise UsageError(
            "A signature is of a build folder, and these patches are not of one.",
            "Give DIR/patches/*.",
        )
    return first.parent


def _find_signature(folder: Path) -> Path:
    """Return the signature of a folder; raise a `SignatureError` where there is none."""
    if not (folder / SIGNATURE).is_file():
        raise SignatureError(
            f"{folder} is not signed: there is no {SIGNATURE}.", "Sign it with editspec sign."
        )
    return folder / SIGNATURE


def _read_material(signature: Path) -> Mapping[str, Any]:
    """Read what a signature says that it is verified with. Nothing of it is believed."""
    try:
        material = parse_json(signature.read_bytes())["verificationMaterial"]
        return {**material}
    except (ValueError, LookupError, TypeError) as error:
        raise SignatureError(f"{signature} is not a signature.", "Sign again.") from error


def _read_signers(signature: Path) -> list[Signer]:
    """Read whom the certificate of a signature names.

    Raises `SignatureError` where the signature has no such certificate, or no entry of a log.
    """
    models = load_extra("signing", "models", package="sigstore")
    x509 = load_extra("signing", "x509", package="cryptography")
    try:
        extensions = models.Bundle.from_json(signature.read_bytes()).signing_certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        issuer = extensions.get_extension_for_oid(x509.ObjectIdentifier(ISSUER)).value.value
        identities = [
            *names.get_values_for_type(x509.RFC822Name),
            *names.get_values_for_type(x509.UniformResourceIdentifier),
        ]
        signers = [Signer(identity, issuer.decode()) for identity in identities]
    except Exception as error:
        raise SignatureError(
            f"{signature} is not a whole signature: a part of it, such as its certificate or its "
            "entry in the transparency log, is missing or damaged.",
            DOUBT,
        ) from error
    if not signers:
        raise SignatureError(f"The certificate of {signature} names nobody.", DOUBT)
    return signers


def _hash_settings(folder: Path) -> Any:
    """The settings that hash only the patches and the statement of a folder."""
    names = sorted(path.name for path in folder.iterdir())
    ignored = [name for name in names if name not in (PATCHES, STATEMENT)]
    hashing = load_extra("signing", "hashing")
    # A folder of git inside of the build would be left out by default, and could hold patches.
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _require_instance(trust_config: Path | None, *, online: bool) -> None:
    """Raise an error unless a Sigstore can be asked: the public one, or that of a trust config."""
    if is_offline() and (online or trust_config is None):
        raise SignatureError(
            "Sigstore cannot be asked, as EDITSPEC_OFFLINE is set.",
            "Unset it. (verify needs no network with --trust-config.)",
        )
    if trust_config is None:
        return
    require_file(trust_config)
    models = load_extra("signing", "models", package="sigstore")
    try:
        config = models.ClientTrustConfig.from_json(trust_config.read_bytes())
        # Each part is read when it is asked for.
        _ = config.trusted_root
        if online:
            _ = config.signing_config
    except Exception as error:
        raise FileError(
            f"{trust_config} is not the client trust config of a Sigstore.",
            "It is JSON with trustedRoot and signingConfig; ask who runs your Sigstore.",
        ) from error


def _find_token() -> str | None:
    """Find the identity token of a job of CI; None where a person can sign in.

    Raises `SignatureError` where there is neither.
    """
    oidc = load_extra("signing", "oidc", package="sigstore")
    try:
        token: str | None = oidc.detect_credential()
    except Exception as error:
        raise SignatureError(
            "This job gets no identity token.",
            "On GitHub the job needs permissions: id-token: write, which a pull request from a "
            "fork does not have.",
        ) from error
    if token is None and not sys.stdin.isatty():
        raise SignatureError(
            "There is no identity to sign with: this is not a job that gets an identity token, "
            "and there is no terminal to sign in at.",
            "Run it in a terminal, in a CI that gives tokens, or sign with --key PEM.",
        )
    return token


@contextmanager
def _translate(what: str, words: Mapping[str, tuple[str, str]]) -> Iterator[None]:
    """Turn failures of the package model-signing into a `SignatureError` in our words."""
    try:
        yield
    except EditError:
        raise
    # The package and those below it raise errors of many kinds, without a common base.
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        reason, hint = next(words[kind] for kind in kinds if kind in words)
        raise SignatureError(f"{what}: {reason}.", hint) from error
