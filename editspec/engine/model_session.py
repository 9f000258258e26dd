"""A spec with its model under a stack of patches, and the statistics of its keys."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor

from editspec.engine.built import time_stage
from editspec.engine.modality_registry import EstimatingModality, ModalityEngine, engine_of
from editspec.engine.opening import fetch_weights, open_model, placing_fields
from editspec.engine.shared_files import SharedFiles
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.layers import suggest_layer
from editspec_runtime.codes import Code
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.executor import IN_PROCESS, Executor
from editspec_runtime.core.method import KeyStatistics
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.core.sample import Sample
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import read_fields
from editspec_runtime.families.travelling import may_run_code, travelling_executor
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.moment_cache import (
    CachedMoment,
    find_second_moment,
    second_moment,
)
from editspec_runtime.maths.sampled_keys import key_sample
from editspec_runtime.maths.tapped_moments import tapped_moment
from editspec_runtime.patches.patch import Patch, StackedWeights

Method = TypeVar("Method", bound=Callable[..., Any])


def on_device(method: Method) -> Method:
    """Make a function of a session compute with reproducible kernels."""

    @wraps(method)
    def compute(session: ModelSession, *arguments: Any, **named: Any) -> Any:
        """Call the function within `ModelSession.kernels`."""
        with session.kernels():
            return method(session, *arguments, **named)

    return cast(Method, compute)


@dataclass
class ModelSession:
    """A spec with its model under a stack of patches.

    Attributes
    ----------
    loaded
        The checked spec.
    checkpoint, base
        The unedited weights, and their digest.
    device, cache, progress
        The device that computes, the cache of results, and the callback for progress.
    executor, allow_code
        The executor of independent items of work, and whether code that the spec names may run.
    stack
        The patches so far.
    model, applied, unedited
        The model of the first weights, the weights of stacks, and the model of the unedited
        weights below a stack; made when first needed.
    spent
        The seconds that were spent in a stage within another, until they are taken from there.
    moments
        C of keys that several layers read, by the names of the keys and the sample.
    """

    loaded: LoadedSpec
    checkpoint: Weights
    base: str
    device: torch.device
    cache: Cache
    progress: ProgressCallback
    stack: list[Patch] = field(default_factory=list)
    model: Model | None = None
    applied: StackedWeights | None = None
    allow_code: bool = False
    executor: Executor = IN_PROCESS
    unedited: Model | None = None
    spent: dict[str, float] = field(default_factory=dict)
    moments: dict[tuple[str, str], CachedMoment] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process, which opens the model itself and shows no progress."""
        loaded = self.loaded
        absolute = replace(loaded, path=loaded.path.absolute(), weights=loaded.weights.absolute())
        return {
            **self.__dict__,
            "loaded": absolute,
            "files": SharedFiles.of(loaded),
            "progress": no_progress,
            "model": None,
            "applied": None,
            "unedited": None,
            "moments": {},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the state in another process.

        Raises `WorkerError` where a file is missing or another one, and `CodeError` where code may
        not run.
        """
        state.pop("files").require()
        self.__dict__.update(state)
        if not self.loaded.weights.exists():
            # Weights that have an address lie in the cache of each machine.
            self.loaded = replace(self.loaded, weights=fetch_weights(self.loaded))
        self.allow_code = may_run_code(self.allow_code, self.loaded.spec.model.family)
        self.device = pick_device(self.device.type)

    @property
    def stacked(self) -> StackedWeights:
        """The weights with the stack applied; sessions of the same weights share them."""
        if self.applied is None or self.applied.base is not self.checkpoint:
            self.applied = StackedWeights(self.checkpoint)
        return self.applied

    @property
    def modality(self) -> ModalityEngine:
        """The engine of the family's modality."""
        return engine_of(self.loaded.spec.model.family)

    @property
    def compatibility(self) -> Compatibility:
        """The choices that papers leave open, as the spec makes them."""
        return self.modality.compatibility(self.loaded.spec.compatibility)

    @property
    def travelling(self) -> Executor:
        """The executor of functions of this session's models."""
        spec = self.loaded.spec
        return travelling_executor(
            self.executor,
            read_fields(spec.model),
            self._origin(),
            self.checkpoint,
            precision=spec.precision,
            device=self.device,
            compatibility=self.compatibility,
        )

    def _origin(self) -> Origin:
        """The origin of the models."""
        return Origin(self.loaded.weights, self.loaded.path.parent, self.allow_code)

    def require_layers(self) -> None:
        """Raise a `SpecError` where the model lacks a layer that an edit names.

        For some checkpoints, such as .pt files, the layers are only known once the model is open.
        """
        with placing_fields(self.loaded):
            model = self.current_model()
        document, layers = self.loaded.document, model.architecture.layers
        problems = []
        refused = getattr(model, "refused", {})
        for number, edit in enumerate(self.loaded.spec.edits):
            for name in edit.layer_names:
                if name in layers:
                    continue
                message = f"there is no {name} in these weights"
                hint = suggest_layer(name, layers)
                if name in refused:
                    reason = refused[name]
                    message, hint = f"{name} cannot be edited: {reason.message}", reason.hint
                where = ("edits", number, "layer")
                problems.append(document.problem(where, message, hint, code=Code.LAYER_UNKNOWN))
        fields = read_fields(self.loaded.spec.model)
        for found in fields.problems_with(model.architecture):
            problems.append(document.misfit(("model",), found))
        if problems:
            raise SpecError(document.file, problems, document.text)

    def kernels(self) -> AbstractContextManager[None]:
        """A context in which kernels on the session's device always give equal bits."""
        return reproducible_kernels(self.device)

    def after(self, count: int) -> Self:
        """The session with only the first `count` patches on the stack."""
        return replace(self, stack=self.stack[:count])

    def current_model(self) -> Model:
        """The model as the patches on the stack leave it."""
        spec = self.loaded.spec
        weights = self.stacked.place(self.stack, spec.precision, self.device)
        if self.model is None:
            self.model = open_model(
                spec.model,
                weights,
                self._origin(),
                precision=spec.precision,
                device=self.device,
                compatibility=self.compatibility,
            )
            return self.model
        return self.model.with_weights(weights)

    @property
    def base_model(self) -> Model:
        """The model of the unedited weights."""
        if not self.stack:
            return self.current_model()
        if self.unedited is None:
            weights = self.checkpoint.place(self.loaded.spec.precision, self.device)
            self.unedited = self.current_model().with_weights(weights)
        return self.unedited

    def _moment_model(self, model: Model) -> Model:
        """The model that C is taken of, where `model` is edited."""
        return self.base_model if self.compatibility.unedited_moment else model

    def sample(self, model: Model) -> Sample:
        """The inputs that statistics are taken over."""
        return self.modality.sample(self, model)

    def known_sample(self, model: Model) -> Sample | None:
        """The inputs of `sample`; None where it takes long to make them."""
        if isinstance(self.modality, EstimatingModality):
            return self.modality.known_sample(self)
        return self.sample(model)

    def find_moment(self, model: Model, layer: str) -> Tensor | None:
        """C of a layer, [in_features, in_features]; None where it is not in the cache."""
        model = self._moment_model(model)
        sample = self.known_sample(model)
        if sample is None:
            return None
        found = find_second_moment(model, layer, sample, self.compatibility, self.cache)
        return None if found is None else found.matrix

    @on_device
    def second_moment(self, model: Model, layer: str) -> CachedMoment:
        """C of a layer with its origin, from the cache or computed."""
        model = self._moment_model(model)
        sample, keys = self.sample(model), model.architecture.layers[layer].keys
        # Keys that several layers read come before all of them: no edit changes them.
        name = (keys, digest(sample.fingerprint()))
        if keys and name in self.moments:
            return self.moments[name]
        found = second_moment(
            model,
            layer,
            sample,
            self.compatibility,
            self.cache,
            lambda done, total: self.progress(f"statistics of {keys or layer}", done, total),
            self.travelling,
        )
        if keys:
            self.moments[name] = found
        return found

    def moment(self, model: Model, layer: str) -> Tensor:
        """C of a layer, [in_features, in_features] float64, from the cache or computed."""
        return self.second_moment(model, layer).matrix

    def keys(self, model: Model, layer: str, seconds: dict[str, float]) -> KeyStatistics:
        """C and a sample of the keys of a layer, computed when they are asked for.

        The time that they take is added to `seconds`.
        """

        def moment() -> Tensor:
            """C of the layer."""
            with time_stage(seconds, "statistics"):
                return self.second_moment(model, layer).matrix

        def sample() -> Tensor:
            """Keys of the layer, [n, in_features]."""
            with time_stage(seconds, "statistics"):
                return key_sample(
                    model,
                    layer,
                    self.sample(model),
                    self.compatibility,
                    self.cache,
                )

        def taps() -> Tensor:
            """E[x x^T] of the keys under all taps."""
            with time_stage(seconds, "statistics"):
                return tapped_moment(
                    model, layer, self.sample(model), self.compatibility, self.cache
                )

        return KeyStatistics(moment, sample, taps)
