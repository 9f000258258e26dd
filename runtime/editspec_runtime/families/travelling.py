"""Models on their way to other processes, which open them by the digest of their weights."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.executor import Executor, InProcess
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.core.model import Model
from editspec_runtime.errors import CodeError, WorkerError
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.executors.work import describe_worker
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import find_family
from editspec_runtime.families.selection import choose_by_fields
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.foreign_code import ALLOW_CODE
from editspec_runtime.io.places import weights_path
from editspec_runtime.io.weights import Weights, place_tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

COPIES = 2
"""The copies of the weights that a process may hold: as they were read, and as they compute."""


class OpenedModel(NamedTuple):
    """A model that a worker has opened.

    Attributes
    ----------
    model
        The model.
    weights, placed
        Its weights as they were read, and as they compute.
    """

    model: Model
    weights: Weights
    placed: Weights


@dataclass(frozen=True)
class ModelSource:
    """All that another process needs to open a model, besides its tensors.

    Attributes
    ----------
    fields
        The fields of ``model:`` in a spec.
    origin
        The file of the weights, the folder of the spec, and whether its code may run.
    digest
        The digest of the weights.
    precision, device
        As in `make_model`; of the device, its kind.
    compatibility
        The way in which the numbers are made.
    """

    fields: ModelFields
    origin: Origin
    digest: str
    precision: str
    device: str
    compatibility: Compatibility

    def open(self) -> OpenedModel:
        """Open the model in a worker.

        Raises
        ------
        WorkerError
            The worker does not find the weights, or finds others.
        CodeError
            The worker may not run the code of the model.
        """
        origin = self._own_origin()
        assert origin.weights is not None
        if not origin.weights.exists():
            raise WorkerError(
                f"{describe_worker()} does not find the weights {origin.weights}.",
                "Put them on a file system that all machines share, at the same path, or name them "
                "by an address (https:// or hf://), from which each machine fetches them.",
            )
        weights = read_weights(origin.weights, choose_by_fields(self.fields, origin), whole=False)
        require_weights(weights, self.digest, origin.weights)
        device = pick_device(self.device)
        placed = weights.place(self.precision, device)
        model = make_model(
            self.fields.family,
            placed,
            self.fields,
            origin=origin,
            precision=self.precision,
            device=device,
            compatibility=self.compatibility,
        )
        return OpenedModel(model, weights, placed)

    def _own_origin(self) -> Origin:
        """The origin of the model on this machine."""
        folder = self.origin.folder
        allowed = may_run_code(self.origin.allow_code, self.fields.family)
        path = self.origin.weights
        name, pin = self.fields.weights, self.fields.digest
        if path is None or not path.exists():
            path = weights_path(name, folder, cache=default_cache(), pin=pin)
        return Origin(path, folder, allowed)


def require_weights(weights: Weights, digest: str, path: Path) -> None:
    """Raise a `WorkerError` where this worker found other weights at a path than the command."""
    found = weights.digest()
    if found != digest:
        raise WorkerError(
            f"{describe_worker()} finds other weights in {path}: expected {digest}, found {found}.",
            "Put the same file at this path on all machines.",
        )


def may_run_code(asked: bool, family: str) -> bool:
    """Whether foreign code may run in this worker, where the command allows it if it `asked`.

    Raises `CodeError` where a model of the family may need code that the worker does not allow.
    """
    allowed = os.environ.get(ALLOW_CODE) == "1"
    if asked and not allowed and find_family(family).runs_code:
        raise CodeError(
            f"{describe_worker()} may not run the code of the model.",
            f"If you trust the code, start the worker with {ALLOW_CODE}=1 in its environment.",
        )
    return asked and allowed


@dataclass(frozen=True)
class TravellingModels:
    """An executor of functions whose models are opened anew in other processes.

    Of a model's weights, only the tensors travel that edits have changed, once for each worker.

    Attributes
    ----------
    executor
        The executor that does the work.
    source
        The source of the models.
    weights
        The weights that the source leads to.
    """

    executor: Executor
    source: ModelSource
    weights: Weights

    def __reduce__(self) -> tuple[Any, ...]:
        return InProcess, ()

    @property
    def workers(self) -> int:
        """The number of processes that may do the work."""
        return self.executor.workers

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
        *,
        memory: int = 0,
        threaded: bool = False,
    ) -> Iterator[Result]:
        """Yield the result of `function` for every item, as `Executor.map`."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.weights.values())
        travelling = _Function(function, self.source, self.weights)
        return self.executor.map(
            travelling, items, device, memory=memory + COPIES * size, threaded=threaded
        )


@dataclass(frozen=True)
class _Function:
    """A function that is pickled without the weights of its models."""

    function: Callable[[Any], Any]
    source: ModelSource
    weights: Weights

    def __call__(self, item: Any) -> Any:
        return self.function(item)

    def __reduce__(self) -> tuple[Any, ...]:
        buffer = io.BytesIO()
        _Pickler(buffer, self.source, self.weights).dump(self.function)
        return pickle.loads, (buffer.getvalue(),)


class _Pickler(pickle.Pickler):
    """A pickler that replaces models and their weights by what opens them."""

    def __init__(self, file: io.BytesIO, source: ModelSource, weights: Weights) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.source = pickle.dumps(source)
        self.precision, self.device = source.precision, source.device
        self.weights = weights

    def reducer_override(self, value: Any) -> Any:
        """Reduce a model to its source and its changed tensors, and weights to their source."""
        if value is self.weights:
            return _open_weights, (self.source,)
        if isinstance(value, Tensor) and value.device.type != "cpu":
            # The GPU of a worker may have another number.
            return _place, (value.cpu(), self.device)
        if isinstance(value, type) or not isinstance(value, Model):
            return NotImplemented
        return _open_changed, (self.source, save(self._changes(value)))

    def _changes(self, model: Model) -> dict[str, Tensor]:
        """The tensors of a model that are not those of the source."""
        changes = {}
        for name, tensor in model.weights.items():
            own = self.weights[name]
            if tensor is own:
                continue
            if not torch.equal(tensor, place_tensor(own, self.precision, tensor.device)):
                changes[name] = tensor.detach().cpu().contiguous()
        return changes


def _open_changed(source: bytes, changes: bytes) -> Model:
    """Open a model in a worker, with the tensors that edits have changed."""
    opened = _open_once(source)
    tensors = load(changes)
    if not tensors:
        return opened.model
    device = next(iter(opened.placed.values())).device
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    return opened.model.with_weights(opened.placed.with_changes(placed))


def _open_weights(source: bytes) -> Weights:
    """The weights of a source, as they were read."""
    return _open_once(source).weights


def _place(tensor: Tensor, device: str) -> Tensor:
    """Put a tensor on the device of a worker."""
    return tensor.to(pick_device(device))


@lru_cache(maxsize=1)
def _open_once(source: bytes) -> OpenedModel:
    """The model of the last source, which a worker keeps."""
    opened: ModelSource = pickle.loads(source)
    return opened.open()


def travelling_executor(
    executor: Executor,
    fields: ModelFields,
    origin: Origin,
    weights: Weights,
    *,
    precision: str,
    device: torch.device,
    compatibility: Compatibility,
) -> TravellingModels:
    """Make an executor of functions of models of these weights, as `make_model` makes them."""
    absolute = Origin(
        None if origin.weights is None else Path(origin.weights).absolute(),
        origin.folder.absolute(),
        origin.allow_code,
    )
    source = ModelSource(fields, absolute, weights.digest(), precision, device.type, compatibility)
    return TravellingModels(executor, source, weights)
