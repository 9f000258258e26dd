"""Where patches come from: an in-toto statement with a SLSA provenance predicate, and signatures of
a build folder.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from editspec.engine.built import BuiltEdit
from editspec.engine.folder import STATEMENT
from editspec.engine.lock import edit_files
from editspec.engine.session import BuildSession
from editspec_runtime import __version__
from editspec_runtime.errors import SignatureError, UsageError
from editspec_runtime.io.builtins import BUILTINS
from editspec_runtime.io.downloads import is_remote
from editspec_runtime.io.files import file_digest, require_file, write
from editspec_runtime.io.shards import is_sharded, read_stored

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:editspec:build:1"
"""What the parameters mean: a spec of version 1, built as docs/supply-chain.md says."""
BUILDER = "urn:editspec:builder"

SIGNATURE = "model.sig"
"""The signature in a build folder, as the model-signing package calls it."""


def statement(session: BuildSession, built: Sequence[BuiltEdit]) -> bytes:
    """The statement of a build, as JSON: which patches, of what, from which spec. Equal builds give
    equal bytes.
    """
    loaded = session.loaded
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [
            _described(
                f"patches/{edit.path.name}", hashlib.sha256(edit.patch.to_bytes()).hexdigest()
            )
            for edit in built
            if edit.path is not None
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "spec": loaded.spec.model_dump(mode="json", exclude_none=True)
                },
                "internalParameters": {
                    "environment": {e.rule.name: e.locked.environment for e in built}
                },
                "resolvedDependencies": [
                    *_weights(session),
                    *_files(session),
                    *_second_moments(session, built),
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"editspec": __version__}},
                "byproducts": [
                    _described(f"rules/{e.path.name}", e.locked.rule)
                    for e in built
                    if e.path is not None
                ],
            },
        },
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _described(name: str, sha256: str, **more: Any) -> dict[str, Any]:
    """A resource descriptor of in-toto."""
    return {"name": name, "digest": {"sha256": sha256}, **more}


def _weights(session: BuildSession) -> Iterator[dict[str, Any]]:
    """The files of the base, each with the digest of its bytes, annotated with the digest of the
    weights in them.
    """
    path, named = session.loaded.weights, session.loaded.spec.model.weights
    files = [path]
    if is_sharded(path):
        weights = read_stored(path)
        files = [file.path for file in weights.files]
        if weights.index is not None:
            files.insert(0, files[0].with_name(weights.index[0]))
    known = is_remote(named) or named in BUILTINS
    for file in files:
        name, more = (named, {"uri": named}) if known else (file.name, {})
        yield _described(name, file_digest(file), annotations={"weights": session.base}, **more)


def _files(session: BuildSession) -> Iterator[dict[str, Any]]:
    """The masks, latents and modules that the edits name, by the names that the spec gives them."""
    numbers = range(len(session.loaded.spec.edits))
    files = {
        name: sha256
        for number in numbers
        for name, sha256 in edit_files(session.loaded, number).items()
    }
    for name, sha256 in sorted(files.items()):
        yield _described(name, sha256)


def _second_moments(session: BuildSession, built: Sequence[BuiltEdit]) -> Iterator[dict[str, Any]]:
    """C of every edit's layer on the model that it was solved on: its float64 numbers, row by
    row.
    """
    spec = session.loaded.spec.model_dump(mode="json", include={"statistics"})
    statistics = spec.get("statistics", {})
    for edit in built:
        if edit.locked.second_moment is not None:
            said = {"layer": edit.rule.layer, **statistics}
            yield _described(
                f"second-moment/{edit.rule.name}", edit.locked.second_moment, annotations=said
            )


def sign_folder(folder: Path, key: Path) -> Path:
    """Sign the patches and the statement of a build folder with a private key (PEM, P-256, P-384 or
    P-521).

    Returns where the signature lies: a sigstore bundle, which the model-signing package made.

    Raises
    ------
    UsageError
        That package is not installed.
    SignatureError
        The folder holds no statement, or one of other patches; or the key cannot be used.
    """
    signing = _library("signing")
    require_statement(folder)
    require_file(key)
    # The package writes the file itself: elsewhere, so that nothing half-written lies in the
    # folder.
    with (
        tempfile.TemporaryDirectory() as temporary,
        _named(f"{folder} cannot be signed with {key}"),
    ):
        made = Path(temporary) / SIGNATURE
        config = (
            signing.Config()
            .set_hashing_config(_hashed(folder))
            .use_elliptic_key_signer(private_key=key)
        )
        config.sign(folder, made)
        data = made.read_bytes()
    write(folder / SIGNATURE, data)
    return folder / SIGNATURE


def require_signed(patches: Sequence[Path], public_key: Path) -> None:
    """Raise a `SignatureError` unless patches are those of a build folder that this key signed, to
    the byte.

    All of the folder's patches and its statement count. Raises `UsageError` where the package is
    not installed, or the patches are not of one folder.
    """
    verifying = _library("verifying")
    folders = {path.absolute().parent for path in patches}
    folder = next(iter(folders)).parent if len(folders) == 1 else None
    if folder is None or next(iter(folders)).name != "patches":
        raise UsageError(
            "A signature is of a build folder, and these patches are not of one.",
            "Give DIR/patches/*.",
        )
    require_file(public_key)
    if not (folder / SIGNATURE).is_file():
        raise SignatureError(
            f"{folder} is not signed: there is no {SIGNATURE}.", "Sign it with editspec sign."
        )
    with _named(f"The signature of {folder} is not that of its files by this key"):
        config = verifying.Config().set_hashing_config(_hashed(folder))
        config.use_elliptic_key_verifier(public_key=public_key).verify(folder, folder / SIGNATURE)
    require_statement(folder)


def require_statement(folder: Path) -> None:
    """Raise a `SignatureError` unless a folder holds a statement, and its subjects are the patches
    that lie there.
    """
    path = folder / STATEMENT
    if not path.is_file():
        raise SignatureError(f"{folder} holds no {STATEMENT}.", "Build with --provenance.")
    try:
        named = {
            subject["name"]: subject["digest"]["sha256"]
            for subject in json.loads(path.read_bytes())["subject"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise SignatureError(
            f"{path} is no statement of a build: {error}.", "Build with --provenance."
        ) from error
    found = {
        f"patches/{file.name}": file_digest(file)
        for file in sorted((folder / "patches").glob("*.safetensors"))
    }
    other = sorted(
        name for name in named.keys() | found.keys() if named.get(name) != found.get(name)
    )
    if other:
        raise SignatureError(
            f"{path} is not of the patches beside it: {', '.join(other)}.",
            "Build with --provenance.",
        )


def _hashed(folder: Path) -> Any:
    """What of a folder is signed: its patches and its statement, whatever else lies there."""
    beside = [
        path.name for path in sorted(folder.iterdir()) if path.name not in ("patches", STATEMENT)
    ]
    return _library("hashing").Config().set_ignored_paths(paths=beside, ignore_git_paths=False)


def _library(module: str) -> Any:
    """A module of the model-signing package."""

    try:
        return import_module(f"model_signing.{module}")
    except ImportError as error:
        raise UsageError(
            f"Signatures are made and verified by the package model-signing, which cannot be imported: {error}.",
            "pip install 'editspec[signing]'",
        ) from error


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Name what the package finds wrong: a key of another kind, a file that changed, another
    key.
    """
    try:
        yield
    except Exception as error:  # the package and those below it raise errors of many kinds
        reason = (
            (str(error).splitlines() or [""])[0]
            .removeprefix("Signature mismatch: ")
            .strip()
            .rstrip(".")
        )
        raise SignatureError(
            f"{what}: {reason or type(error).__name__}.",
            "Do not use the files before you know why.",
        ) from error
