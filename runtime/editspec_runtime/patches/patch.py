"""Patches, each the change of one edit bound to its base, and stacks of patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from editspec_runtime.core.method import Change
from editspec_runtime.errors import PatchError, reading_foreign
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.files import (
    read_editspec_metadata,
    read_header,
    read_tensors,
    safetensors_bytes,
)
from editspec_runtime.io.outputs import PATCH_FORMAT
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.low_rank import exact_delta
from editspec_runtime.maths.metric import row_space
from editspec_runtime.patches.rounding import round_parameter
from editspec_runtime.patches.shapes import LARGEST_CHANGE
from editspec_runtime.patches.soundness import (
    find_contradiction,
    find_wrong_field,
    find_wrong_tensor,
)
from editspec_runtime.patches.tensor_names import is_complete, shared_directions

OTHER_MODEL = "The patch is of another model: give the weights that it was built for."

FORMAT = PATCH_FORMAT
VERSION = 1


def layer_metadata(layers: Sequence[str]) -> dict[str, Any]:
    """The metadata that name layers: ``layer`` for one, ``layers`` for several."""
    if len(layers) == 1:
        return {"layer": layers[0]}
    return {"layers": list(layers)}


@dataclass(frozen=True, repr=False)
class Patch:
    """The change of one or more parameters, each of them low-rank or full.

    Attributes
    ----------
    directions
        D of each parameter by its name, [s, in], orthonormal rows.
    coefficients
        A of each parameter by its name: [out, s, kh, kw] for a convolution, [out, s] for a matrix.
    metadata
        The metadata of the file: name, family, layer (layers, if there are several), layouts, rank,
        solver, and the digests ``edit``, ``base``, ``parent``, ``result`` and ``content``.
    deltas
        The full change of each parameter that has no factors, in the shape of the checkpoint.
    file
        The file that it was read from; empty where it comes from none.
    """

    directions: Mapping[str, Tensor]
    coefficients: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    deltas: Mapping[str, Tensor] = field(default_factory=dict)
    file: str = ""

    def __repr__(self) -> str:
        return f"Patch({self.metadata.get('name')!r} of {', '.join(self.parameters)})"

    @staticmethod
    def of(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Patch:
        """The patch whose file holds these tensors."""
        parts: dict[str, dict[str, Tensor]] = {suffix: {} for suffix in (".D", ".A", ".delta")}
        shared: Mapping[str, str] = metadata.get("directions", {})
        parts[".D"] = {parameter: tensors[name] for parameter, name in shared.items()}
        names = set(shared.values())
        for name, tensor in tensors.items():
            if name in names:
                continue
            suffix = name[name.rindex(".") :]
            parts[suffix][name.removesuffix(suffix)] = tensor
        return Patch(parts[".D"], parts[".A"], metadata, parts[".delta"])

    @staticmethod
    def of_changes(changes: Mapping[str, Change]) -> Patch:
        """The patch that makes these changes of weights, by name, without metadata."""
        directions, coefficients, deltas = {}, {}, {}
        for name, change in changes.items():
            if change.full is not None:
                deltas[name] = change.full
                continue
            assert change.directions is not None
            assert change.coefficients is not None
            directions[name] = change.directions
            coefficients[name] = change.coefficients
        return Patch(directions, coefficients, {}, deltas)

    def to_changes(self) -> dict[str, Change]:
        """The changes of weights that the patch makes, by name."""
        changes = {}
        for name, directions in self.directions.items():
            changes[name] = Change(directions, self.coefficients[name])
        for name, delta in self.deltas.items():
            changes[name] = Change(full=delta)
        return changes

    @property
    def parameters(self) -> list[str]:
        """The parameters that change, by name."""
        return sorted({*self.directions, *self.deltas})

    @property
    def layers(self) -> list[str]:
        """The names of the layers that change, in the order of computation."""
        if "layers" in self.metadata:
            return list(self.metadata["layers"])
        return [self.metadata["layer"]]

    @property
    def name(self) -> str:
        """The name of the edit."""
        return str(self.metadata["name"])

    @property
    def title(self) -> str:
        """The name for messages, with the file and the family as far as they are known."""
        facts = [self.file] if self.file else []
        if "family" in self.metadata:
            facts.append(f"of the family {self.metadata['family']}")
        name = f"Patch {self.name}" if "name" in self.metadata else "The patch"
        return f"{name} ({', '.join(facts)})" if facts else name

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the file: ``P.D`` and ``P.A``, or ``P.delta``, of parameters P.

        Parameters that share D have the one ``D.n`` that the metadata ``directions`` name.
        """
        shared = self.metadata.get("directions", {})
        tensors = {}
        for name, tensor in self.directions.items():
            tensors[shared.get(name, f"{name}.D")] = tensor
        for suffix, part in ((".A", self.coefficients), (".delta", self.deltas)):
            for name, tensor in part.items():
                tensors[name + suffix] = tensor
        return tensors

    def delta(self, parameter: str) -> Tensor:
        """Compute the full change of a parameter, float64 on the CPU.

        [out, in, kh, kw] or [out, in] from factors, delta[o, i, y, x] = sum over s of
        A[o, s, y, x] D[s, i]; else in the shape of the checkpoint.
        """
        if parameter in self.deltas:
            return self.deltas[parameter].detach().cpu().double()
        if self.numbers(parameter) > LARGEST_CHANGE:
            raise PatchError(
                f"Patch {self.name} changes {self.numbers(parameter)} numbers of {parameter}, and "
                f"without its weights at most {LARGEST_CHANGE} are written out.",
                "Check that the patch is of this model; editspec apply reads the weights with it.",
            )
        return self._write_out(parameter)

    def _write_out(self, parameter: str) -> Tensor:
        """The full change by factors, whose size is known to be that of the weights."""
        # By separate multiplications and additions, s ascending: a matrix product would give other
        # bits on other devices.
        return exact_delta(self.coefficients[parameter], self.directions[parameter])

    def row_space(self, parameter: str) -> Tensor:
        """The directions in which a parameter changes, [s, in] float64.

        D, or for a full change an orthonormal basis of its rows.
        """
        if parameter in self.directions:
            return self.directions[parameter].detach().cpu().double()
        return row_space(self.delta(parameter))

    def stored_change(self, parameter: str) -> Tensor:
        """The full change with its axes in the checkpoint's order, float64 on the CPU."""
        return self._order(parameter, self.delta(parameter))

    def known_change(self, parameter: str, weight: Tensor) -> Tensor:
        """Return `stored_change` of a parameter of the size of `weight`, however large.

        Raises `PatchError` where it is not.
        """
        if weight.numel() != self.numbers(parameter):
            raise PatchError(
                f"{self.title} changes {parameter} ({self.numbers(parameter)} numbers), and these "
                f"weights {say_found(tuple(weight.shape))}.",
                hint_of_other_model(self),
            )
        if parameter in self.deltas:
            return self.delta(parameter)
        return self._order(parameter, self._write_out(parameter))

    def _order(self, parameter: str, change: Tensor) -> Tensor:
        if parameter in self.directions and self._is_transposed(parameter):
            return change.transpose(0, 1)
        return change

    def _is_transposed(self, parameter: str) -> bool:
        """Whether the checkpoint has the input axis of a parameter before its output axis."""
        # The weights of transposed convolutions lie so.
        return str(self.metadata.get("layouts", {}).get(parameter, "")).startswith("i")

    def rows(self, parameter: str) -> int:
        """The number of equal parts along its first axis that `part` gives of a change."""
        if parameter in self.deltas:
            return self.deltas[parameter].numel()
        if self._is_transposed(parameter):
            return self.directions[parameter].shape[1]
        return self.coefficients[parameter].shape[0]

    def numbers(self, parameter: str) -> int:
        """The number of numbers in a parameter that changes."""
        if parameter in self.deltas:
            return self.deltas[parameter].numel()
        return (
            _numbers_per_direction(self.coefficients[parameter])
            * self.directions[parameter].shape[1]
        )

    def part(self, parameter: str, begin: int, end: int) -> Tensor:
        """The numbers `begin` to `end` of the flattened `stored_change`, [end - begin].

        Of factors, begin and end are those of whole `rows`.
        """
        if parameter in self.deltas:
            return self.deltas[parameter].detach().cpu().reshape(-1)[begin:end].double()
        coefficients, directions = self.coefficients[parameter], self.directions[parameter]
        if self._is_transposed(parameter):
            row = _numbers_per_direction(coefficients)
            columns = {parameter: directions[:, begin // row : end // row]}
            part = Patch(columns, self.coefficients, self.metadata)
            return part.stored_change(parameter).reshape(-1)
        row = directions.shape[1] * coefficients.shape[2:].numel()
        rows = {parameter: coefficients[begin // row : end // row]}
        return Patch({parameter: directions}, rows, {}).delta(parameter).reshape(-1)

    def to_bytes(self) -> bytes:
        """The patch as a safetensors file; equal patches give equal bytes."""
        return safetensors_bytes(self.tensors(), self.metadata)


def _numbers_per_direction(coefficients: Tensor) -> int:
    """The number of numbers in A [out, s, ...] for one direction; s may be 0."""
    return coefficients.shape[0] * coefficients.shape[2:].numel()


def make_patch(
    directions: Mapping[str, Tensor],
    coefficients: Mapping[str, Tensor],
    layouts: Mapping[str, str],
    metadata: Mapping[str, Any],
    deltas: Mapping[str, Tensor] | None = None,
) -> Patch:
    """Make a patch; add format, version, layouts and content digest to its metadata."""
    own: dict[str, Any] = {"format": FORMAT, "version": VERSION, "layouts": dict(layouts)}
    shared = shared_directions(directions)
    if shared:
        own["directions"] = shared
    unsigned = Patch(directions, coefficients, {**metadata, **own}, deltas or {})
    signed = {**unsigned.metadata, "content": content_digest(unsigned)}
    return replace(unsigned, metadata=signed)


def content_digest(patch: Patch) -> str:
    """SHA-256 over the metadata without ``content`` and all tensors."""
    metadata = {name: value for name, value in patch.metadata.items() if name != "content"}
    return digest({"metadata": metadata, "tensors": tensors_digest(patch.tensors())})


def read_patch(path: Path) -> Patch:
    """Read a patch and check that every byte of it is as it was written.

    Raises
    ------
    FileError
        The file is missing, damaged or not a safetensors file.
    PatchError
        The file is not a patch of this version, was changed after it was written, or says of itself
        what its tensors are not.
    """
    with reading_foreign(path):
        return _read_patch(path)


def _read_patch(path: Path) -> Patch:
    header = read_header(path)
    metadata: dict[str, Any] = read_editspec_metadata(header, path)
    if metadata.get("format") != FORMAT:
        raise PatchError(
            f"{path} is not a patch: its metadata do not say format {FORMAT}.",
            "editspec build writes patches into the folder edits of a build.",
        )
    if type(metadata.get("version")) is int and metadata["version"] != VERSION:
        raise PatchError(
            f"{path} is a patch of version {metadata.get('version')}; this editspec reads "
            f"{VERSION}.",
            "Build it again, or read it with the editspec that wrote it.",
        )
    _require(path, find_wrong_field(metadata))
    shared = metadata.get("directions", {})
    if not is_complete(set(header.tensors), shared):
        raise _damage(path, "its tensors are not D and A, or delta")
    _require(path, find_wrong_tensor(header.tensors, shared))
    patch = Patch.of(read_tensors(path), metadata)
    _require(path, find_contradiction(patch))
    # The digest is of the values; the bytes must be those that these values give, so that two files
    # of one patch are never different.
    if content_digest(patch) != metadata["content"] or patch.to_bytes() != path.read_bytes():
        raise _damage(path, "its content is not the one that it was signed with")
    for tensor in patch.tensors().values():
        if not bool(tensor.isfinite().all()):
            raise _damage(path, "it holds numbers that are not finite")
    return replace(patch, file=str(path))


@overload
def apply_stack(base: Weights, patches: Iterable[Patch], scale: float = ...) -> Weights: ...
@overload
def apply_stack(
    base: dict[str, Tensor], patches: Iterable[Patch], scale: float = ...
) -> dict[str, Tensor]: ...
def apply_stack(
    base: Weights | dict[str, Tensor], patches: Iterable[Patch], scale: float = 1.0
) -> Weights | dict[str, Tensor]:
    """Apply a whole stack to weights, its changes multiplied by a `scale`.

    The deltas are added up in float64 in stack order, then to W, and rounded once to the
    parameter's dtype: the same bytes on every device. To undo a patch, apply the stack without the
    patch to the base. Subtracting the patch would leave a rounding error.

    Raises `PatchError` for a parameter that the weights lack or whose shape does not fit.
    """
    totals: dict[str, Tensor] = {}
    for patch in patches:
        _add_change(totals, patch, base)
    if scale != 1.0:
        totals = {name: total * scale for name, total in totals.items()}
    changes = {name: _apply_total(base, name, total) for name, total in totals.items()}
    if isinstance(base, Weights):
        return base.with_changes(changes)
    return base | changes


def stack_results(base: Weights, patches: Iterable[Patch]) -> Iterator[str]:
    """Yield the digest of the weights after each patch of a stack."""
    stacked, stack = StackedWeights(base), list[Patch]()
    for patch in patches:
        stack.append(patch)
        yield stacked.apply(stack).digest()


class StackedWeights:
    """The weights after a stack that grows patch by patch, which is applied once.

    The bits are those of `apply_stack`. Weights after a patch share all tensors and hashes that
    the patch does not change with the weights before it, also where they are computed with.

    Parameters
    ----------
    base
        The weights that the stack starts from.
    """

    def __init__(self, base: Weights) -> None:
        self.base = base
        # Replaced as a whole: another thread may read it meanwhile.
        self._state: tuple[tuple[Patch, ...], dict[str, Tensor], Weights] = ((), {}, base)
        self._placed: dict[tuple[str, torch.device | None], tuple[Weights, Weights]] = {}

    def apply(self, stack: Sequence[Patch]) -> Weights:
        """The weights after a stack.

        Raises `PatchError` and `NumericalError` as `apply_stack` does.
        """
        applied, totals, weights = self._state
        extended = len(stack) >= len(applied) and all(map(_same_change, applied, stack))
        if not extended:
            applied, totals, weights = (), {}, self.base
        totals = dict(totals)
        for patch in stack[len(applied) :]:
            _add_change(totals, patch, self.base)
            changes = {}
            # From the base each time: weights are rounded once, whatever the length of the stack.
            for name in patch.parameters:
                changes[name] = _apply_total(self.base, name, totals[name])
            weights = weights.with_changes(changes)
        self._state = tuple(stack), totals, weights
        return weights

    def place(self, stack: Sequence[Patch], precision: str, device: torch.device | None) -> Weights:
        """The weights after a stack in a precision and on a device, as a model takes them."""
        weights = self.apply(stack)
        before, placed = self._placed.get((precision, device), (None, None))
        if before is None or placed is None:
            placed = weights.place(precision, device)
        else:
            # Only what changed since goes to the device.
            changed = weights.differing(before)
            changes = weights.part(changed).place(precision, device)
            placed = placed.with_part(changes)
        self._placed[precision, device] = weights, placed
        return placed


def _same_change(first: Patch, second: Patch) -> bool:
    """Whether two patches hold the very same tensors, whatever they say of themselves."""
    kinds = (
        (first.directions, second.directions),
        (first.coefficients, second.coefficients),
        (first.deltas, second.deltas),
    )
    for ones, others in kinds:
        if ones.keys() != others.keys():
            return False
        if any(ones[name] is not others[name] for name in ones):
            return False
    return True


def _add_change(totals: dict[str, Tensor], patch: Patch, base: Mapping[str, Tensor]) -> None:
    """Add a patch's deltas to the totals of a stack on a base, in place."""
    for name in patch.parameters:
        if name not in base:
            numbers = patch.numbers(name)
            raise PatchError(
                f"{patch.title} changes {name} ({numbers} numbers), and these weights lack it.",
                hint_of_other_model(patch),
            )
        change = patch.known_change(name, base[name])
        if name in totals:
            change = totals[name] + change
        totals[name] = change


def _apply_total(base: Mapping[str, Tensor], name: str, total: Tensor) -> Tensor:
    """A parameter after a stack whose deltas sum up to `total`."""
    shape = tuple(base[name].shape) if name in base else None
    if shape is None or base[name].numel() != total.numel():
        raise PatchError(
            f"The patch changes {name} {list(total.shape)}, and these weights {say_found(shape)}.",
            OTHER_MODEL,
        )
    weight = base[name]
    return round_parameter(name, weight.cpu().double() + total.reshape(weight.shape), weight.dtype)


def hint_of_other_model(patch: Patch) -> str:
    """Say what to do about a patch whose parameters the given weights lack."""
    base = patch.metadata.get("base")
    if base is None:
        return OTHER_MODEL
    return (
        f"The patch is of another model: give the weights {base} that its stack starts from, or "
        "solve its edit again on these weights with editspec rebase --spec."
    )


def say_found(shape: tuple[int, ...] | None) -> str:
    """Say what weights have in the place of a parameter; a `shape` of None: nothing."""
    return "lack it" if shape is None else f"have {list(shape)}"


def _require(path: Path, reason: str | None) -> None:
    """Raise a `PatchError` about a file where there is a reason to refuse it."""
    if reason is not None:
        raise _damage(path, reason)


def _damage(path: Path, reason: str) -> PatchError:
    return PatchError(f"{path} is a damaged patch: {reason}.", "Do not use it; build it again.")
