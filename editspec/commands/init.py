"""``editspec init``: a folder for the edits of a team."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import editspec
from editspec.engine.git import ATTRIBUTES
from editspec.engine.opening import find_architecture
from editspec.engine.project import FILE
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.worlds.registry import DEFAULT_WEIGHTS
from editspec_compiler.registry import modality_of
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.downloads import is_remote
from editspec_runtime.io.files import write

RECIPES = "recipes"
"""The folder of the specs, which the workflow and the hook watch."""

SPEC = f"{RECIPES}/first.yaml"

COMMENT = """\
# What is to change, and why. To look and to point: editspec studio {spec}
"""

CHECKS = [{"measure": "finite"}, {"measure": "predicted-collateral", "at_most": 0.1}]
"""The checks of a new spec, which every modality has."""

PROJECT = """\
# What all who work on these specs share. Paths are relative to this file.
# cache = ".cache"           # default: the user's; EDITSPEC_CACHE comes first
# threads = 4                # default: all cores; the result is the same

[policy]                     # validate, plan, check and ci keep to it
weights = [{weights}]
largest_collateral = 0.1     # the predicted collateral of an edit
required_checks = ["finite"]
"""

IGNORED = """\
# What editspec makes of specs and weights. Specs, masks and locks belong into git.
/out/
/review/
/merged/
/.cache/
/weights/
.*.studio/
"""

HOOK = """\
repos:
  - repo: https://github.com/OWNER/editspec
    rev: the commit that you trust
    hooks:
      - id: editspec-validate
"""

WORKFLOW = ".github/workflows/edits.yml"


@dataclass(frozen=True)
class InitResult(CommandResult):
    """The files of a new folder.

    Attributes
    ----------
    spec
        The path of the spec.
    written
        The files that were written.
    kept
        The files that were there before, and stayed as they are.
    """

    spec: Path
    written: tuple[Path, ...]
    kept: tuple[Path, ...]

    def to_text(self) -> str:
        """One line for each file, then what to do next."""
        lines = [f"written: {path}" for path in self.written]
        lines += [f"kept as it is: {path}" for path in self.kept]
        lines.append(f"next: editspec studio {self.spec}")
        lines.append("once in each clone: editspec git install, for locks that git merges")
        return "\n".join(lines)


def init(
    folder: Path | str = ".",
    *,
    model: str = DEFAULT_WEIGHTS,
    family: str | None = None,
    progress: ProgressCallback = no_progress,
) -> InitResult:
    """Begin a folder for edits of a model: a spec, a policy, a workflow and a hook.

    The spec validates: its weights are pinned by their digest, and its first edit names images of
    the gallery. Files that are there stay as they are.

    Parameters
    ----------
    folder
        The folder, which may exist.
    model
        The weights: the path of a checkpoint, or what ``model.weights`` takes. Default: those that
        the package ships.

    Raises
    ------
    EditError
        The weights are wrong, or the folder cannot be written.
    """
    root = Path(folder)
    place = locate_weights(model, progress=lambda done, total: progress("fetching", done, total))
    checkpoint = read_weights(place)
    architecture = find_architecture(checkpoint, place, family)
    digest = checkpoint.digest()
    modality = modality_of(architecture.family)
    named = {
        "family": architecture.family,
        "weights": _name_weights(model, root / RECIPES),
        "digest": digest,
    }
    files = {
        SPEC: _write_spec(named, modality.first_edit(architecture)),
        f"{RECIPES}/masks/.gitkeep": "",
        FILE: PROJECT.format(weights=f'"{digest}"'),
        ".gitignore": IGNORED,
        ".gitattributes": ATTRIBUTES,
        ".pre-commit-config.yaml": HOOK,
        WORKFLOW: _workflow_path().read_text("utf-8"),
    }
    paths = {root / name: content for name, content in files.items()}
    kept = tuple(path for path in paths if path.exists())
    for path, content in paths.items():
        if path not in kept:
            write(path, content.encode())
    return InitResult(root / SPEC, tuple(path for path in paths if path not in kept), kept)


def _write_spec(model: dict[str, Any], edit: dict[str, Any]) -> str:
    """The text of a spec with one edit: a line for each of its fields."""
    lines = [COMMENT.format(spec=SPEC) + "version: 1", "model:"]
    lines += [f"  {name}: {_flow(value)}" for name, value in model.items()]
    lines += ["edits:", f"  - name: {edit.pop('name')}"]
    lines += [f"    {name}: {_flow(value)}" for name, value in edit.items()]
    lines += ["checks:", *(f"  - {_flow(check)}" for check in CHECKS)]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value as YAML writes it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").rstrip()


def _name_weights(model: str, folder: Path) -> str:
    """The weights as a spec in `folder` names them."""
    if is_remote(model) or model.startswith("builtin:"):
        return model
    return Path(os.path.relpath(Path(model).expanduser(), folder)).as_posix()


def _workflow_path() -> Path:
    """The workflow for continuous integration, in the package or next to it in a checkout."""
    package = Path(editspec.__file__).parent
    inside = package / "workflow" / "edits.yml"
    beside = package.parent / "examples" / "ci" / "edits.yml"
    return inside if inside.is_file() else beside
