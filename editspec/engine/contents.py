"""The contents of files: a patch, a rule, weights, the layers of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.facts import FileFacts, TensorFacts, list_tensors
from editspec.engine.opening import find_architecture
from editspec.engine.result import to_plain
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.progress import no_progress
from editspec_runtime.errors import CodeError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.files import read_header
from editspec_runtime.io.weights import Weights
from editspec_runtime.patches.patch import read_patch


@dataclass(frozen=True)
class PatchFacts(FileFacts):
    """A patch: its metadata, and its tensors."""

    metadata: Mapping[str, Any]
    tensors: tuple[TensorFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """The metadata, and the tensors without their numbers."""
        return {"kind": "patch", **self.metadata, "tensors": to_plain(self.tensors)}


@dataclass(frozen=True)
class WeightsFacts(FileFacts):
    """Weights of a known family.

    Attributes
    ----------
    family
        The family of the model.
    model
        The facts of its architecture besides the layers, such as sizes.
    parameters
        The count of all numbers.
    numbers
        The count of tensors of each type of numbers.
    rounding
        The precision that the numbers of an edit are rounded to, in words.
    digest
        The digest of the weights.
    edited
        The metadata of weights that editspec edited; None for others.
    layers
        The layers that can be edited.
    notes
        Sentences about what is assumed of the model because its weights do not say it.
    """

    family: str
    model: Mapping[str, Any]
    parameters: int
    numbers: dict[str, int]
    rounding: str
    digest: str
    edited: dict[str, Any] | None
    layers: tuple[dict[str, str], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; the facts of the model stand among them."""
        fields = super().to_dict()
        if not self.notes:
            del fields["notes"]
        model = fields.pop("model")
        return {"kind": "weights", "family": fields.pop("family"), **model, **fields}


def describe_patch(path: Path) -> PatchFacts:
    """The contents of a patch. Raises `PatchError` where it is damaged."""
    patch = read_patch(path)
    return PatchFacts(patch.metadata, list_tensors(read_header(path)))


def describe_weights(path: Path, family: str | None) -> WeightsFacts:
    """The contents of a checkpoint, read as `family` or as the first family that fits."""
    checkpoint = read_weights(path)
    architecture = find_architecture(checkpoint, path, family)
    tensors = checkpoint.tensors.values()
    sizes = [tensor.numel() for tensor in tensors]
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    is_edited = bool(checkpoint.metadata.get("patches"))
    return WeightsFacts(
        family=architecture.family,
        model=architecture.facts(),
        parameters=sum(sizes),
        numbers=dict(dtypes),
        rounding=_rounding(checkpoint, architecture),
        digest=checkpoint.digest(),
        edited=checkpoint.metadata if is_edited else None,
        layers=_list_layers(architecture),
        notes=architecture.notes,
    )


def list_network_layers(loaded: LoadedSpec) -> tuple[dict[str, str], ...]:
    """The layers of a network that only its own code can list.

    None are listed where that code may not run.
    """
    try:
        session = BuildSession.of(loaded, "auto", no_progress, needs_edits=False)
    except CodeError:
        return ()
    return _list_layers(session.current_model().architecture)


def _rounding(checkpoint: Weights, architecture: Architecture) -> str:
    parameters = [layer.parameter for layer in architecture.layers.values()]
    kinds = {str(checkpoint.tensors[name].dtype).removeprefix("torch.") for name in parameters}
    return f"edits are computed in float32 or float64 and rounded to {' or '.join(sorted(kinds))}"


def _list_layers(architecture: Architecture) -> tuple[dict[str, str], ...]:
    return tuple(layer.facts() for layer in architecture.layers.values())
