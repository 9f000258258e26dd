"""The provenance of patches, as an in-toto statement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from editspec.engine.built import BuiltEdit
from editspec.engine.folder import STATEMENT
from editspec.engine.lock import edit_files
from editspec.engine.session import BuildSession
from editspec_runtime import __version__
from editspec_runtime.errors import SignatureError
from editspec_runtime.io.builtins import BUILTINS
from editspec_runtime.io.downloads import is_remote
from editspec_runtime.io.files import file_digest
from editspec_runtime.io.parts import is_in_parts
from editspec_runtime.io.shards import is_sharded, read_stored
from editspec_runtime.patches.patch import layer_metadata

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:editspec:build:1"
"""The kind of build, whose parameters docs/supply-chain.md describes."""

BUILDER = "urn:editspec:builder"


def statement(session: BuildSession, built: Sequence[BuiltEdit]) -> bytes:
    """The statement of a build, as JSON.

    It says which patches were built, from which spec and from which files. Equal builds give equal
    bytes.
    """
    subjects, byproducts = [], []
    for edit in built:
        if edit.path is not None:
            patch_digest = hashlib.sha256(edit.patch.to_bytes()).hexdigest()
            subjects.append(_descriptor(f"patches/{edit.path.name}", patch_digest))
            byproducts.append(_descriptor(f"rules/{edit.path.name}", edit.locked.rule))
    environments = {edit.rule.name: edit.locked.environment for edit in built}
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "spec": session.loaded.spec.model_dump(mode="json", exclude_none=True)
        },
        "internalParameters": {"environment": environments},
        "resolvedDependencies": [
            *_weights(session),
            *_files(session),
            *_sources(session),
            *_second_moments(session, built),
        ],
    }
    details = {
        "builder": {"id": BUILDER, "version": {"editspec": __version__}},
        "byproducts": byproducts,
    }
    content = {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _descriptor(name: str, sha256: str, **more: Any) -> dict[str, Any]:
    """A resource descriptor of in-toto."""
    return {"name": name, "digest": {"sha256": sha256}, **more}


def _weights(session: BuildSession) -> Iterator[dict[str, Any]]:
    """The files of the base by the digests of their bytes.

    Each is annotated with the digest of the weights, which is another than that of the bytes.
    """
    path, named = session.loaded.weights, session.loaded.spec.model.weights
    files = [path]
    if is_sharded(path):
        weights = read_stored(path)
        files = [file.path for file in weights.files]
        if weights.index is not None:
            # Of several models the index is that of the last one.
            files.insert(0, files[-1].with_name(weights.index[0]))
    annotations = {"weights": session.base}
    for file in files:
        if is_remote(named) or named in BUILTINS:
            yield _descriptor(named, file_digest(file), annotations=annotations, uri=named)
        else:
            name = file.name
            if is_in_parts(path):
                name = file.relative_to(path).as_posix()
            yield _descriptor(name, file_digest(file), annotations=annotations)


def _files(session: BuildSession) -> Iterator[dict[str, Any]]:
    """The files that the edits name, by their names in the spec."""
    files: dict[str, str] = {}
    for number in range(len(session.loaded.spec.edits)):
        files |= edit_files(session.loaded, number)
    for name, sha256 in sorted(files.items()):
        yield _descriptor(name, sha256)


def _sources(session: BuildSession) -> Iterator[dict[str, Any]]:
    """What the edits use from git, by its commits."""
    for pin in session.loaded.pins:
        yield {"name": pin.source, "uri": pin.source, "digest": {"gitCommit": pin.commit}}


def _second_moments(session: BuildSession, built: Sequence[BuiltEdit]) -> Iterator[dict[str, Any]]:
    """C of the layer of every edit, on the model that the edit was solved on.

    Its digest is that of its float64 numbers, row by row.
    """
    spec = session.loaded.spec.model_dump(mode="json", include={"statistics"})
    statistics = spec.get("statistics", {})
    for edit in built:
        if edit.locked.second_moment is not None:
            said = {**layer_metadata(edit.rule.layers), **statistics}
            name = f"second-moment/{edit.rule.name}"
            yield _descriptor(name, edit.locked.second_moment, annotations=said)


def require_statement(folder: Path) -> None:
    """Raise a `SignatureError` unless a folder holds the statement of its patches."""
    path = folder / STATEMENT
    if not path.is_file():
        raise SignatureError(f"{folder} holds no {STATEMENT}.", "Build with --provenance.")
    try:
        subjects = json.loads(path.read_bytes())["subject"]
        named = {subject["name"]: subject["digest"]["sha256"] for subject in subjects}
    except (ValueError, KeyError, TypeError) as error:
        raise SignatureError(
            f"{path} is not the statement of a build.", "Build with --provenance."
        ) from error
    files = sorted((folder / "patches").glob("*.safetensors"))
    found = {f"patches/{file.name}": file_digest(file) for file in files}
    names = sorted(named.keys() | found.keys())
    other = [name for name in names if named.get(name) != found.get(name)]
    if other:
        raise SignatureError(
            f"{path} is not of the patches beside it: {', '.join(other)}.",
            "Build with --provenance.",
        )
