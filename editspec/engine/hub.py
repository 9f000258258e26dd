"""Builds on the Hugging Face hub: what is pushed there, and patches from there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from editspec.engine.folder import STATEMENT
from editspec.engine.patch_files import PATCHES
from editspec.engine.resources import locate_weights
from editspec.engine.signatures import SIGNATURE
from editspec_runtime.errors import FileError, UsageError
from editspec_runtime.io.downloads import HUB_TROUBLE
from editspec_runtime.io.extra_registry import load_extra

MANIFEST = "manifest.json"

PUSHED = (
    "README.md",
    "LICENSE",
    "before-after.png",
    MANIFEST,
    STATEMENT,
    SIGNATURE,
    f"{PATCHES}/*.safetensors",
)
"""The files of a build that are pushed. Rules and reports stay where they are."""

REPOSITORY = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
"""An address of a repository; of two slashes a path keeps one."""

FILE = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+/[^@]+\.safetensors(?:@[\w./-]+)?)")
"""An address of a file of patches in a repository."""


def parse_repository(address: str) -> tuple[str, str]:
    """Split ``hf://organisation/repository@revision`` into repository and revision.

    Raises `UsageError` for any other text.
    """
    found = REPOSITORY.fullmatch(address)
    if found is None:
        raise UsageError(
            f"{address} is not a repository of the hub.", "Write hf://organisation/repository."
        )
    return found[1], found[2] or "main"


def push_folder(folder: Path, address: str) -> str:
    """Push the files of a build in one commit; return the address of the commit.

    A repository that is not there is made, and is private.

    Raises
    ------
    UsageError
        The address is wrong, or the package huggingface_hub is not installed.
    FileError
        The hub refuses, or cannot be reached.
    """
    repository, revision = parse_repository(address)
    hub = load_extra("hub")
    api = hub.HfApi()
    title = "Patches of editspec"
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(PUSHED),
            revision=revision,
            commit_message=title,
        )
    except Exception as error:
        # The library meets trouble with errors of many kinds.
        raise FileError(f"{address} cannot be pushed to the hub.", HUB_TROUBLE) from error
    return str(commit.commit_url)


def fetch_patches(paths: Sequence[Path | str]) -> list[Path | str]:
    """Fetch the patches of the hub among the paths of a stack; all others stay as they are.

    An address is that of one patch, or of a repository that `push_folder` filled, whose patches
    then come in their order.
    """
    files: list[Path | str] = []
    for path in paths:
        is_there = str(path).startswith("hf:/")
        files += _fetch(str(path)) if is_there else [path]
    return files


def _fetch(given: str) -> list[Path]:
    """Fetch the patches that an address of the hub names."""
    if found := FILE.fullmatch(given):
        return [locate_weights(f"hf://{found[1]}")]
    repository, revision = parse_repository(given)
    manifest = locate_weights(f"hf://{repository}/{MANIFEST}@{revision}")
    names = sorted(name for name in _listed(manifest) if _is_patch(name))
    if not names:
        raise FileError(f"{given} lists no patches.", "Give a repository of editspec push.")
    return [locate_weights(f"hf://{repository}/{name}@{revision}") for name in names]


def _listed(manifest: Path) -> list[str]:
    """The files that a manifest lists. Nothing else in it is believed."""
    try:
        files = json.loads(manifest.read_text())["files"]
        return [name for name in files if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_patch(name: str) -> bool:
    path = PurePosixPath(name)
    return str(path.parent) == PATCHES and path.suffix == ".safetensors"
