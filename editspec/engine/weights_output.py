"""Edited and converted weights as files: the kind that a name asks for, and writing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from editspec_runtime.errors import FileError, UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import containers
from editspec_runtime.families.selection import Choice
from editspec_runtime.io.files import open_output
from editspec_runtime.io.marks import as_said
from editspec_runtime.io.outputs import WEIGHTS, WEIGHTS_FOLDER, name_ending
from editspec_runtime.io.parts import is_in_parts
from editspec_runtime.io.places import container_of
from editspec_runtime.io.rewriting import rewrite
from editspec_runtime.io.shards import Stored, as_one_file, is_sharded
from editspec_runtime.io.weights import Container, Weights
from editspec_runtime.io.weights_files import write_weights

FOLDER = "folder"
EXPORTED = "exported"

ENDINGS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".tar": "torch",
    ".ckpt": "torch",
    ".bin": "torch",
    ".pkl": "pickle",
    ".pt2": EXPORTED,
}
"""The kind of a file of weights that a name asks for."""

NO_FILE = (
    "a folder of several models is no single file that another program reads",
    "Give apply a name without an ending: it writes the whole folder.",
)
"""The problem and the hint of a file that is made of a folder of several models."""

FORMATS = ".safetensors, or .pt (.pth, .tar, .ckpt, .bin)"


@dataclass(frozen=True)
class WeightsOutput:
    """A place for weights.

    Attributes
    ----------
    path
        A file, or a folder for several.
    kind
        ``safetensors``, ``torch``, ``pickle`` or ``folder``.
    base
        The weights that it is made of.
    own_form
        Whether it is the base's own container with some tensors replaced.
    alone
        Whether the model alone is written.
    """

    path: Path
    kind: str
    base: Path
    own_form: bool
    alone: bool = False

    def require_free(self) -> None:
        """Raise a `FileError` where something lies there that editspec did not write."""
        output = WEIGHTS_FOLDER if self.kind == FOLDER else WEIGHTS
        output.require_free(self.path)

    def arrange(self, weights: Stored, container: Container) -> tuple[Stored, Container]:
        """Stored weights in the files and by the names that are to be written."""
        names = {name: name for name in weights.tensors}
        if self.alone:
            return as_one_file(weights, container.model_names(names)), Container()
        if self.kind != FOLDER:
            weights = as_one_file(weights, names)
        return weights, container

    def write(self, weights: Weights, changed: Mapping[str, Tensor]) -> None:
        """Write weights, of which some tensors were `changed`, and read them again.

        Raises a `FileError` where that cannot be done, or what is read is something else. Nothing
        is left then.
        """
        weights = Weights(weights.tensors, self._container(weights.container), weights.metadata)
        with open_output(self.path) as target:
            if self.own_form:
                ways = {weights.container.place(name): changed[name] for name in changed}
                rewrite(self.base, target, ways, as_said(weights.file_metadata()))
            else:
                write_weights(target, weights, self.kind)
            target.flush()
            container = weights.container
            key = "" if self.kind == "safetensors" else ".".join(container.key)
            found = read_weights(Path(target.name), Choice(key, container.prefix)).digest()
            if found != weights.digest():
                raise FileError(
                    f"{self.path} would not be read as the weights that were to be written.",
                    "Give a name that ends in .safetensors.",
                )

    def _container(self, container: Container) -> Container:
        """The container that is written, of weights from another one."""
        if self.own_form:
            return container
        if self.alone:
            container = replace(container, others={})
        if self.kind == "safetensors":
            return replace(container, prefix="") if self.alone else container
        if find_kind(self.base) == "pickle":
            container = replace(container, key=())
        # What a safetensors file says by a prefix, a checkpoint of a training says by a key.
        for training in containers():
            if container.prefix == training.prefix:
                key = (training.prefix.removesuffix("."),)
                return replace(container, prefix="", key=key)
        return container


STREAMED = ("safetensors", FOLDER)
"""The kinds of weights that are never in memory as a whole."""


def find_kind(base: Path) -> str:
    """The kind of a place of weights: that of a file, ``folder``, or ``exported``."""
    if is_sharded(base):
        return FOLDER
    if base.suffix == ".pt2":
        return EXPORTED
    return container_of(base)


def plan_edited(out: Path, base: Path, alone: bool) -> WeightsOutput:
    """Plan where edited weights go.

    A name without an ending, or with that of the base, asks for the container of the base.

    Raises
    ------
    UsageError
        The ending asks for what cannot be written.
    """
    own = find_kind(base)
    kind = _asked_kind(out, base, own)
    if is_in_parts(base) and name_ending(out) not in ENDINGS:
        kind = FOLDER  # whose names have versions, such as sd-1.5-edited
    if is_in_parts(base) and (kind != FOLDER or alone):
        raise _refusal(out, *NO_FILE)
    if kind == "":
        problem = f"its ending {name_ending(out)} is none of a file of weights"
        hint = (
            f"Give a name that ends in {FORMATS}, or in {name_ending(base) or 'nothing'} as {base}."
        )
        raise _refusal(out, problem, hint)
    if kind == EXPORTED or (kind == "pickle" and own != "pickle"):
        problem = f"a {out.suffix or base.suffix} is not made of {base}"
        raise _refusal(out, problem, f"Give a name that ends in {FORMATS}.")
    if alone and kind in ("pickle", FOLDER):
        problem = f"--only-generator has no form like that of {base}"
        raise _refusal(out, problem, f"Give a name that ends in {FORMATS}.")
    own_form = kind == own and kind in ("torch", "pickle") and not alone
    return WeightsOutput(out, kind, base, own_form, alone)


def plan_converted(out: Path, base: Path) -> WeightsOutput:
    """Plan where converted weights go; a name without an ending asks for safetensors.

    Raises
    ------
    UsageError
        The ending asks for what cannot be written.
    """
    if is_in_parts(base):
        raise _refusal(out, *NO_FILE)
    kind = "safetensors" if not name_ending(out) else ENDINGS.get(name_ending(out), "")
    if kind not in ("safetensors", "torch"):
        hint = f"Give a name that ends in {FORMATS}."
        if kind == "pickle":
            hint += " A .pkl is edited by editspec apply --model BASE.pkl PATCH... -o EDITED.pkl."
        raise _refusal(out, f"convert makes no {name_ending(out)}", hint)
    return WeightsOutput(out, kind, base, own_form=False)


def _asked_kind(out: Path, base: Path, own: str) -> str:
    """The kind that a name asks for, with a base of the kind `own`; empty for an unknown one."""
    if own == FOLDER and out.is_dir():
        return FOLDER
    ending = name_ending(out)
    if ending == "" or (ending == name_ending(base) and own != FOLDER):
        return own
    return ENDINGS.get(ending, "")


def _refusal(out: Path, problem: str, hint: str) -> UsageError:
    """The error of a name that cannot be written; that of what lies there comes first."""
    WEIGHTS.require_free(out)
    return UsageError(f"{out} cannot be written: {problem}.", hint)
