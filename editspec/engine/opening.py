"""The way from a spec or a path to weights, to their architecture, and to a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.resources import is_code_allowed, locate_weights
from editspec_compiler import LoadedSpec
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.compatibility import EDITSPEC, Compatibility
from editspec_runtime.core.fields import FieldError, ModelFields
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.contents import tensor_infos
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import FAMILIES, find_family, read_architecture, read_fields
from editspec_runtime.families.selection import choose_by_fields
from editspec_runtime.io.weights import Weights


def fetch_weights(loaded: LoadedSpec, progress: ProgressCallback = no_progress) -> Path:
    """Find the file of a spec's weights; remote weights are fetched into the cache."""
    model = loaded.spec.model
    task = f"fetching {model.weights.partition('#')[0]}"
    return locate_weights(
        model.weights,
        loaded.path.parent,
        pin=model.digest,
        progress=lambda done, total: progress(task, done, total),
    )


def open_checkpoint(
    loaded: LoadedSpec, progress: ProgressCallback = no_progress, allow_code: bool | None = None
) -> tuple[Weights, str]:
    """Read the weights of a spec, and take their digest.

    Code of a network, which may run where `allow_code` says so, tells which of several state dicts
    is meant. Default: as `Resources` says.

    Raises
    ------
    WeightsError
        The weights are not those that the spec pins.
    FileError
        The file is missing or damaged.
    """
    path = fetch_weights(loaded, progress)
    allowed = is_code_allowed() if allow_code is None else allow_code
    origin = Origin(path, loaded.path.parent, allowed)
    with placing_fields(loaded):
        choice = choose_by_fields(read_fields(loaded.spec.model), origin)
        checkpoint = read_weights(path, choice, whole=False)
    base = checkpoint.digest()
    pin = loaded.spec.model.digest
    # A pin ``sha256:`` is of the bytes of the file, and was compared when they were fetched.
    if pin is not None and not pin.startswith("sha256:") and pin != base:
        raise WeightsError(
            f"{loaded.weights} does not hold the weights that the spec pins: "
            f"expected {pin}, found {base}.",
            "Get the pinned weights, or change model.digest.",
        )
    return checkpoint, base


@contextmanager
def placing_fields(loaded: LoadedSpec) -> Iterator[None]:
    """Turn a field of ``model:`` that does not fit the network into an error at its place."""
    try:
        yield
    except FieldError as error:
        where = ("model", *error.path)
        raise loaded.error(where, error.message, error.hint, Code.MODULE_UNFIT) from error


def read_model_architecture(path: Path, family: str) -> Architecture:
    """Read the architecture of a family's weights from their file."""
    return find_architecture(read_weights(path), path, family)


def find_architecture(
    checkpoint: Weights, path: Path | None, family: str | None = None
) -> Architecture:
    """The architecture of a checkpoint, as `family` or as the first family that fits.

    `path` is where the checkpoint lies; None where its tensors alone are to tell it.

    Raises
    ------
    WeightsError
        No family fits. The message says what was found, and what each family expects.
    """
    infos = tensor_infos(checkpoint)
    if family is not None:
        return read_architecture(family, infos, path)
    reasons = []
    for name, known in FAMILIES.items():
        if known.read_architecture is None:
            continue
        try:
            return read_architecture(name, infos, path)
        except WeightsError as error:
            reasons.append(f"as {name}: {error.message}")
    raise WeightsError(
        f"{path} holds no weights of a family that editspec knows.\n" + "\n".join(reasons),
        "Give --family where you know better: it then says only what does not fit that one. Of a "
        "network of your own, inspect a spec with model.module.",
    )


def open_model(
    said: ModelFields,
    weights: Mapping[str, Tensor],
    origin: Origin,
    *,
    precision: str = "float32",
    device: torch.device | None = None,
    compatibility: Compatibility = EDITSPEC,
) -> Model:
    """Make the model that the ``model:`` of a spec describes, around its weights.

    Parameters
    ----------
    said
        The ``model:`` of a checked spec.
    weights
        The tensors by their names in the checkpoint.
    origin
        The path of the weights, the folder of the spec, and whether its code may run.

    Raises
    ------
    WeightsError
        The tensors do not fit the family or the fields.
    CodeError
        Foreign code would have to run, and may not.
    """
    return make_model(
        said.family,
        weights,
        read_fields(said),
        origin=origin,
        precision=precision,
        device=device,
        compatibility=compatibility,
    )


def open_weights(
    weights: Weights,
    path: Path,
    family: str | None = None,
    *,
    device: torch.device | None = None,
    compatibility: Compatibility = EDITSPEC,
) -> Model:
    """Make the model of weights without a spec, as `family` or the first that fits.

    Raises `WeightsError` as `find_architecture` does.
    """
    found = find_family(family or find_architecture(weights, path).family)
    said = found.load_fields()(family=found.name, weights=str(path))
    return open_model(said, weights, Origin(path), device=device, compatibility=compatibility)
