"""Patches: the change of one edit in one file, bound to the weights it was solved on; and stacks of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError, PatchError
from editspec_runtime.io.digests import digest, rows_digest, tensor_row, tensors_digest
from editspec_runtime.io.files import (
    read_editspec_metadata,
    read_header,
    read_tensors,
    safetensors_bytes,
)

FORMAT = "editspec.patch"
VERSION = 1
FIELDS = (
    "base",
    "content",
    "edit",
    "family",
    "format",
    "layer",
    "layouts",
    "name",
    "parent",
    "rank",
    "result",
    "solver",
    "version",
)


@dataclass(frozen=True)
class Patch:
    """The change of one or more parameters, each of them low-rank or, by a solver without a rank
    limit, full.

    Attributes
    ----------
    directions
        D of each parameter by its name, [s, in], orthonormal rows.
    coefficients
        A of each parameter by its name: [out, s, kh, kw] for a convolution, [out, s] for a matrix.
    metadata
        What the file says of the patch, ``content`` included: name, family, layer, layouts, rank,
        solver, and the digests ``edit``, ``base``, ``parent`` and ``result``.
    deltas
        The full change of each parameter that has no factors, in the shape of the checkpoint.
    """

    directions: Mapping[str, Tensor]
    coefficients: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    deltas: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Patch:
        """The patch whose file holds these tensors."""
        parts: dict[str, dict[str, Tensor]] = {suffix: {} for suffix in (".D", ".A", ".delta")}
        for name, tensor in tensors.items():
            suffix = name[name.rindex(".") :]
            parts[suffix][name.removesuffix(suffix)] = tensor
        return Patch(parts[".D"], parts[".A"], metadata, parts[".delta"])

    @property
    def parameters(self) -> list[str]:
        """The parameters that change, by name."""
        return sorted({*self.directions, *self.deltas})

    @property
    def name(self) -> str:
        """The name of the edit."""
        return str(self.metadata["name"])

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the file: ``P.D`` and ``P.A``, or ``P.delta``, for each parameter P."""
        parts = {".D": self.directions, ".A": self.coefficients, ".delta": self.deltas}
        return {
            name + suffix: tensor for suffix, part in parts.items() for name, tensor in part.items()
        }

    def delta(self, parameter: str) -> Tensor:
        """The full change of a parameter, [out, in, kh, kw], [out, in] or that of the checkpoint,
        float64 on the CPU.

        delta[o, i, y, x] = sum over s of A[o, s, y, x] D[s, i] by separate multiplications and
        additions, s ascending: a matrix product would give other bits on other devices.
        """
        if parameter in self.deltas:
            return self.deltas[parameter].detach().cpu().double()
        directions = self.directions[parameter].detach().cpu().double()
        coefficients = self.coefficients[parameter].detach().cpu().double()
        taps = (1,) * (coefficients.ndim - 2)
        total = torch.zeros(
            coefficients.shape[0], directions.shape[1], *coefficients.shape[2:], dtype=torch.float64
        )
        for index, direction in enumerate(directions):
            total += coefficients[:, index, None] * direction.reshape(1, -1, *taps)
        return total

    def stored(self, parameter: str) -> Tensor:
        """The full change with its axes in the order of the checkpoint, float64 on the CPU."""
        change = self.delta(parameter)
        return (
            change.transpose(0, 1)
            if parameter in self.directions and self._turned(parameter)
            else change
        )

    def _turned(self, parameter: str) -> bool:
        """Whether the checkpoint has the input channels before the output channels, as transposed
        convolutions do.
        """
        return str(self.metadata.get("layouts", {}).get(parameter, "")).startswith("i")

    def rows(self, parameter: str) -> int:
        """In how many equal parts along its first axis the change of a parameter can be asked
        for.
        """
        if parameter in self.deltas:
            return self.deltas[parameter].numel()
        if self._turned(parameter):
            return self.directions[parameter].shape[1]
        return self.coefficients[parameter].shape[0]

    def numbers(self, parameter: str) -> int:
        """How many numbers of a parameter it changes: all."""
        if parameter in self.deltas:
            return self.deltas[parameter].numel()
        return self.coefficients[parameter][:, 0].numel() * self.directions[parameter].shape[1]

    def part(self, parameter: str, begin: int, end: int) -> Tensor:
        """The numbers `begin` to `end` of the flattened `stored`, [end - begin]; of factors, of
        whole rows only.
        """
        if parameter in self.deltas:
            return self.deltas[parameter].detach().cpu().reshape(-1)[begin:end].double()
        coefficients, directions = self.coefficients[parameter], self.directions[parameter]
        if self._turned(parameter):
            row = coefficients[:, 0].numel()
            columns = directions[:, begin // row : end // row]
            return (
                Patch({parameter: columns}, self.coefficients, self.metadata)
                .stored(parameter)
                .reshape(-1)
            )
        row = directions.shape[1] * coefficients[0, 0].numel()
        rows = {parameter: coefficients[begin // row : end // row]}
        return Patch({parameter: directions}, rows, {}).delta(parameter).reshape(-1)

    def to_bytes(self) -> bytes:
        """The patch as a safetensors file; equal patches give equal bytes."""
        return safetensors_bytes(self.tensors(), self.metadata)


def make_patch(
    directions: Mapping[str, Tensor],
    coefficients: Mapping[str, Tensor],
    layouts: Mapping[str, str],
    metadata: Mapping[str, Any],
    deltas: Mapping[str, Tensor] | None = None,
) -> Patch:
    """A patch whose metadata are completed by format, version, layouts and the digest of its
    content.
    """
    unsigned = Patch(
        directions,
        coefficients,
        {**metadata, "format": FORMAT, "version": VERSION, "layouts": dict(layouts)},
        deltas or {},
    )
    return replace(unsigned, metadata={**unsigned.metadata, "content": content_digest(unsigned)})


def content_digest(patch: Patch) -> str:
    """SHA-256 over the metadata without ``content`` and all tensors."""
    metadata = {name: value for name, value in patch.metadata.items() if name != "content"}
    return digest({"metadata": metadata, "tensors": tensors_digest(patch.tensors())})


def read_patch(path: Path) -> Patch:
    """Read a patch and check that every byte of it is as it was written.

    Raises
    ------
    FileError
        The file is missing, damaged or no safetensors file.
    PatchError
        It is no patch of this version, or was changed after it was written.
    """
    header = read_header(path)
    metadata: dict[str, Any] = read_editspec_metadata(header, path)
    if metadata.get("format") != FORMAT:
        raise PatchError(f"{path} is not a patch: its metadata do not say format {FORMAT}.")
    if metadata.get("version") != VERSION:
        raise PatchError(
            f"{path} is a patch of version {metadata.get('version')}; this editspec reads {VERSION}."
        )
    missing = sorted(set(FIELDS) - set(metadata))
    tensors = read_tensors(path)
    if missing or not _whole(set(tensors)):
        raise _damaged(
            path,
            f"it lacks {', '.join(missing)}"
            if missing
            else "its tensors are not D and A, or delta",
        )
    patch = Patch.of(tensors, metadata)
    if content_digest(patch) != metadata["content"] or patch.to_bytes() != path.read_bytes():
        raise _damaged(path, "its content is not the one that it was signed with")
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise _damaged(path, "it holds numbers that are not finite")
    return patch


def apply_stack(
    base: Mapping[str, Tensor], patches: Iterable[Patch], scale: float = 1.0
) -> dict[str, Tensor]:
    """The weights after a whole stack, whose changes may be multiplied by a `scale`.

    The deltas are added up in float64 in stack order, then to W, and rounded once to the
    parameter's dtype: the same bytes on every device. Undoing a patch means applying the stack
    without it to the base, never subtracting.

    Raises `PatchError` for a parameter that the weights lack or whose shape does not fit.
    """
    totals: dict[str, Tensor] = {}
    for patch in patches:
        _add(totals, patch)
    scaled = {name: total * scale if scale != 1.0 else total for name, total in totals.items()}
    return dict(base) | {name: _rounded(base, name, total) for name, total in scaled.items()}


def stack_results(base: Mapping[str, Tensor], patches: Iterable[Patch]) -> Iterator[str]:
    """The digest of the weights after each patch of a stack; what a patch does not touch is hashed
    once.
    """
    rows = {name: tensor_row(name, tensor) for name, tensor in base.items()}
    totals: dict[str, Tensor] = {}
    for patch in patches:
        _add(totals, patch)
        rows |= {
            name: tensor_row(name, _rounded(base, name, totals[name])) for name in patch.parameters
        }
        yield rows_digest(rows.values())


def _add(totals: dict[str, Tensor], patch: Patch) -> None:
    """Add a patch's deltas to the totals of a stack, in place."""
    for name in patch.parameters:
        change = patch.stored(name)
        totals[name] = totals[name] + change if name in totals else change


def _rounded(base: Mapping[str, Tensor], name: str, total: Tensor) -> Tensor:
    """A parameter after a stack whose deltas sum up to `total`."""
    if name not in base or base[name].numel() != total.numel():
        found = "lack it" if name not in base else f"have {list(base[name].shape)}"
        raise PatchError(
            f"The patch changes {name} {list(total.shape)}, and these weights {found}."
        )
    weight = base[name]
    return stored_as(name, weight.cpu().double() + total.reshape(weight.shape), weight.dtype)


def stored_as(parameter: str, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 numbers of a parameter rounded once to the `dtype` in which it is stored.

    Raises `NumericalError` where they are no numbers, or lie beyond what `dtype` holds, such as
    65504 in float16.
    """
    if bool(exact.isnan().any()):
        raise NumericalError(
            f"The edit leaves numbers in {parameter} that are not finite.",
            "Check the patches with editspec verify.",
        )
    stored = rounded(exact, dtype)
    if not bool(stored.isfinite().all()):
        kind = str(dtype).removeprefix("torch.")
        raise NumericalError(
            f"The edit takes {parameter} to {float(exact.abs().max()):.6g}, and {kind} ends at "
            f"{torch.finfo(dtype).max:.6g}.",
            "Edit the weights in float32 (or bfloat16), or apply less of the change (--scale).",
        )
    return stored


def rounded(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 numbers rounded once to `dtype`, ties to even.

    torch goes from float64 to 16 bits by way of float32, and so rounds twice. Here float32 is
    reached by rounding to odd, after which the second rounding gives what one alone would have
    given.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return exact.to(dtype)
    nearest = exact.float()
    bits = nearest.view(torch.int32)
    inexact = nearest.double() != exact
    beyond = nearest.double().abs() > exact.abs()
    odd = torch.where(inexact & nearest.isfinite(), (bits - beyond.int()) | 1, bits)
    return odd.view(torch.float32).to(dtype)


def require_chain(base: str, patches: Sequence[Patch]) -> None:
    """Raise a `PatchError` unless each patch was solved on what lies before it: first the base,
    then each result.
    """
    expected, place = base, "these weights"
    for patch in patches:
        if patch.metadata["parent"] != expected:
            raise PatchError(
                f"Patch {patch.name} was solved on weights {patch.metadata['parent']}, "
                f"and {place} have digest {expected}.",
                _hint(base, patches, patch),
            )
        if patch.metadata["base"] != base:
            raise PatchError(
                f"The stack of patch {patch.name} starts from weights {patch.metadata['base']}, "
                f"and these weights have digest {base}.",
                "Apply the whole stack at once to the weights that it was built from.",
            )
        expected, place = patch.metadata["result"], f"the weights after {patch.name}"


def _whole(names: set[str]) -> bool:
    """Whether these are the names of a patch's tensors: each parameter has D and A, or delta, and
    never both.
    """
    factors = {name.removesuffix(".D") for name in names if name.endswith(".D")}
    deltas = {name.removesuffix(".delta") for name in names if name.endswith(".delta")}
    wanted = {f"{name}.{factor}" for name in factors for factor in "AD"} | {
        f"{name}.delta" for name in deltas
    }
    return names == wanted and not factors & deltas


def _hint(base: str, patches: Sequence[Patch], stranger: Patch) -> str:
    parent = stranger.metadata["parent"]
    if stranger.metadata["base"] != base:
        return f"Its stack starts from weights {stranger.metadata['base']}: give those as the base."
    before = next((p.name for p in patches if p.metadata["result"] == parent), None)
    if parent == base:
        return "It comes first in its stack: give the patches in the order of their edits."
    if before:
        return f"It comes after {before}: give the patches in the order of their edits."
    return "A patch before it is missing: give the whole stack, in the order of the edits."


def _damaged(path: Path, reason: str) -> PatchError:
    return PatchError(f"{path} is a damaged patch: {reason}.", "Do not use it; build it again.")
