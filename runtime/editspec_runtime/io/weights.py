"""Weights as a value: tensors by their names in the model, and their digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from editspec_runtime.io import digests
from editspec_runtime.io.digests import Row, rows_digest
from editspec_runtime.io.files import canonical_json
from editspec_runtime.io.lazy_tensors import LazyTensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass
class _Hash:
    """The SHA-256 of a tensor's bytes once it is known, which its copies share."""

    sha256: str | None = None


class Weights(Mapping[str, "Tensor"]):
    """The tensors of a model, which are never changed in place.

    Each tensor is hashed once, when its hash is first needed. Weights that differ in some tensors,
    or lie on another device, keep the hashes of all others.

    Parameters
    ----------
    tensors
        The tensors by their names in the model. Of a checkpoint of a whole training, names and
        tensors of the model alone, noise buffers included.
    container
        The names and tensors that the file holds besides. Default: none.
    metadata
        What editspec wrote into the file. Default: nothing.
    unread
        The digest rows of tensors of the model that are not held, by name. Default: all are held.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        container: Container | None = None,
        metadata: Mapping[str, object] | None = None,
        unread: Mapping[str, Row] | None = None,
    ) -> None:
        self.tensors: Mapping[str, Tensor] = tensors
        if not isinstance(tensors, LazyTensors):
            self.tensors = dict(tensors)
        self.container = container or Container()
        self.metadata = dict(metadata or {})
        self.unread = dict(unread or {})
        self._hashes = {name: _Hash() for name in self.tensors}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def row(self, name: str) -> Row:
        """The digest row of a tensor: name, safetensors dtype, shape and SHA-256."""
        tensor = self.tensors[name]
        return digests.make_row(name, tensor, self._sha256(name, tensor))

    def digest(self) -> str:
        """The digest of weights: over the tensors alone, whatever the container."""
        held = [self.row(name) for name in self.tensors]
        return rows_digest([*held, *self.unread.values()])

    def digest_of(self, tensors: Mapping[str, Tensor]) -> str:
        """The digest of tensors under names of their own.

        Those that lie in the memory of these weights are not hashed again.
        """
        if isinstance(tensors, Weights):
            return tensors.digest()
        if isinstance(self.tensors, LazyTensors):
            return digests.tensors_digest(tensors)
        names = {_memory(tensor): name for name, tensor in self.tensors.items()}
        rows = []
        for own_name, tensor in tensors.items():
            name = names.get(_memory(tensor))
            if name is None:
                rows.append(digests.tensor_row(own_name, tensor))
            else:
                rows.append(digests.make_row(own_name, tensor, self._sha256(name)))
        return rows_digest(rows)

    def with_changes(
        self, changes: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None
    ) -> Weights:
        """These weights with some tensors replaced, in the same container.

        `metadata` is what the file says of them. Default: what it said before.
        """
        if metadata is None:
            metadata = self.metadata
        tensors = _join(self.tensors, changes)
        changed = Weights(tensors, self.container, metadata, self.unread)
        replaced = set(self.differing(changed))
        for name in self.tensors:
            if name not in replaced:
                changed._hashes[name] = self._hashes[name]
        return changed

    def differing(self, other: Weights) -> list[str]:
        """The names of tensors that other weights do not share with these; none is read."""
        own, others = _sources(self.tensors), _sources(other.tensors)
        return [name for name, source in own.items() if others.get(name) is not source]

    def part(self, names: Iterable[str]) -> Weights:
        """Some of these tensors, with their hashes."""
        if isinstance(self.tensors, LazyTensors):
            chosen: Mapping[str, Tensor] = self.tensors.part(names)
        else:
            chosen = {name: self.tensors[name] for name in names}
        part = Weights(chosen, self.container, self.metadata)
        for name in part:
            part._hashes[name] = self._hashes[name]
        return part

    def with_part(self, part: Weights) -> Weights:
        """These weights with the tensors and the hashes of a `part` in place of their own."""
        changed = self.with_changes(part.tensors)
        changed._hashes |= part._hashes
        return changed

    def place(self, precision: str, device: torch.device | None = None) -> Weights:
        """Copy these weights to a device, those of floating point numbers in a precision."""
        if isinstance(self.tensors, LazyTensors):
            move = partial(place_tensor, precision=precision, device=device)
            return self.with_changes(self.tensors.map(move, precision))
        copies = {name: place_tensor(tensor, precision, device) for name, tensor in self.items()}
        placed = self.with_changes(copies)
        # A copy of the same dtype has the same bytes, and so the same hash.
        for name, copy in copies.items():
            if copy.dtype == self.tensors[name].dtype:
                placed._hashes[name] = self._hashes[name]
        return placed

    def file_metadata(self) -> dict[str, str]:
        """What is said in a file of these weights, by editspec and by others."""
        said = dict(self.container.metadata)
        if self.metadata:
            said["editspec"] = canonical_json(self.metadata)
        return said

    def _sha256(self, name: str, tensor: Tensor | None = None) -> str:
        found = self._hashes[name]
        if found.sha256 is None:
            tensor = self.tensors[name] if tensor is None else tensor
            found.sha256 = digests.tensor_digest(tensor)
        return found.sha256


def _join(tensors: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors with some replaced."""
    if isinstance(tensors, LazyTensors):
        return tensors.with_changes(changes)
    return {**tensors, **changes}


def _sources(tensors: Mapping[str, Tensor]) -> Mapping[str, object]:
    """What tells whether two tensors of a name are the same: the tensor, or what reads it."""
    return tensors.readers if isinstance(tensors, LazyTensors) else tensors


@dataclass(frozen=True)
class Container:
    """The names and tensors that a file holds around the tensors of a model.

    Attributes
    ----------
    prefix
        The text that the file puts before the names of the model.
    beside
        Names that the file leaves without the prefix, and outside of the key.
    others
        Tensors of the file that do not belong to the model; carried along untouched.
    key
        The keys that lead to the tensors, in a file of nested mappings.
    metadata
        What others wrote into the file, as a safetensors file has it.
    """

    prefix: str = ""
    beside: tuple[str, ...] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def name(self, own: str) -> str:
        """The name in the file of a tensor of the model."""
        return own if own in self.beside else self.prefix + own

    def place(self, own: str) -> tuple[str, ...]:
        """The keys that lead to a tensor of the model in a file of nested mappings."""
        return (own,) if own in self.beside else (*self.key, self.prefix + own)

    def model_part(self, named: Mapping[str, T]) -> dict[str, T]:
        """Pick what belongs to the model from a whole file, by its names in the model."""
        if not self.prefix:
            return dict(named)
        part = {}
        for name, value in named.items():
            if name.startswith(self.prefix):
                part[name.removeprefix(self.prefix)] = value
        # After the others: a name beside the prefix wins over the same one behind it.
        for name, value in named.items():
            if name in self.beside:
                part[name] = value
        return part

    def model_names(self, named: Iterable[str]) -> dict[str, str]:
        """The names of the model among those of a file: by the file's, the model's own."""
        part = self.model_part({name: name for name in named})
        return {name: own for own, name in part.items()}


def digest_of(weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """The digest of tensors; those of `weights` that keep hashes are not hashed again."""
    if isinstance(weights, Weights):
        return weights.digest_of(tensors)
    return digests.tensors_digest(tensors)


def place_tensor(tensor: Tensor, precision: str, device: torch.device | None) -> Tensor:
    """A tensor on a device, in a precision if it holds floating point numbers."""
    import torch

    dtype = getattr(torch, precision) if tensor.is_floating_point() else tensor.dtype
    return tensor.to(device=device, dtype=dtype)


def _memory(tensor: Tensor) -> tuple[object, ...]:
    """A key that tells a tensor's bytes from those of other living tensors."""
    # A view of the same memory in another order has other bytes.
    layout = None if tensor.is_contiguous() else (tensor.shape, tensor.stride())
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.numel(), layout
