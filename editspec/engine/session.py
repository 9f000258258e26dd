"""A spec with its model, and the stack of patches as it grows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editspec.engine.lock import (
    CURRENT,
    Lock,
    LockedEdit,
    Step,
    artifact_differences,
    edit_files,
    edit_settings,
    input_changes,
    lock_path,
    read_lock,
    shared_settings,
    steps,
)
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.modalities.image.resolve import context_of, resolve
from editspec_compiler.references import unfit_class
from editspec_compiler.schema import Model
from editspec_runtime.core.compatibility import Compatibility, conventions
from editspec_runtime.core.rule import Rule, read_rule
from editspec_runtime.errors import (
    EditError,
    FileError,
    LockError,
    WeightsError,
)
from editspec_runtime.families.checkpoints import (
    Checkpoint,
    read_checkpoint,
    weights_path,
)
from editspec_runtime.families.open import make_generator, pick_device
from editspec_runtime.families.torch_module.exported import read_exported
from editspec_runtime.families.torch_module.source import Points, Source, from_factory
from editspec_runtime.families.torch_module.trace import PointError
from editspec_runtime.io.cache import Cache, default_cache
from editspec_runtime.io.digests import digest, tensor_digest, tensors_digest
from editspec_runtime.maths.collateral import predicted
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.maths.moments import (
    SecondMoment,
    environment,
    key_sample,
    second_moment,
    second_moment_key,
)
from editspec_runtime.methods.baselines import ImageLoss
from editspec_runtime.methods.solve import Keys, change_of, loss_of, residual_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch, read_patch

if TYPE_CHECKING:
    pass
from editspec.engine.folder import BuildFolder, patch_names
from editspec_runtime.core.progress import ProgressCallback, no_progress

STAGES = ("compile", "statistics", "solve")


def fetched(loaded: LoadedSpec, progress: ProgressCallback = no_progress) -> Path:
    """The file of a spec's weights, fetched into the cache where they lie elsewhere."""
    model = loaded.spec.model
    return weights_path(
        model.weights,
        loaded.path.parent,
        pin=model.digest,
        progress=lambda done, total: progress(
            f"fetching {model.weights.partition('#')[0]}", done, total
        ),
    )


def network_of(model: Model, weights: Path, folder: Path) -> Source | None:
    """The network of the family torch, from its code below `folder` or from its file; None of any
    other family.
    """
    if model.family != "torch":
        return None
    remake = (
        partial(from_factory, model.module, folder)
        if model.module
        else partial(read_exported, weights)
    )
    module, code = remake()
    points = {}
    for name, given in (model.layers or {}).items():
        edited = given.parameter.rpartition(".")[0] if given.parameter else str(given.key)
        points[name] = Points(
            given.key or edited, given.value or edited, given.parameter or f"{edited}.weight"
        )
    return Source(
        module, code, points, tuple(model.latent_shape) if model.latent_shape else None, remake
    )


def generator_of(loaded: LoadedSpec, device: str = "auto") -> Generator:
    """The unedited generator of a spec. Raises as `compile` does."""
    return BuildSession.of(loaded, device, no_progress).generator()


@dataclass(frozen=True)
class BuiltEdit:
    """One edit of a build.

    Attributes
    ----------
    rule
        What the compiler made of it.
    patch
        What the runtime made of the rule.
    loss
        mean |V* - f(K*; W)| with the weights that the patch gives; of ``all-weights`` the mean
        absolute difference of pixels.
    seconds
        How long ``compile``, ``statistics`` and ``solve`` took; 0 for what was there already.
    status
        What there was to do: ``new``, ``changed``, ``dependent``, ``missing`` or ``up to date``.
    locked
        What the lock says of it.
    path
        The patch file; None where nothing was written.
    residual
        |V* - f(K*; W)| with these weights, beside the same with the weights before; None where it was not measured.
    """

    rule: Rule
    patch: Patch
    loss: float
    seconds: dict[str, float]
    status: str
    locked: LockedEdit
    path: Path | None = None
    residual: float | None = None


@dataclass
class BuildSession:
    """A spec with its model, and the stack of patches as it grows."""

    loaded: LoadedSpec
    checkpoint: Checkpoint
    base: str
    device: torch.device
    cache: Cache
    progress: ProgressCallback
    lock: Lock | None
    image_loss: ImageLoss | None = None
    stack: list[Patch] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    folder: BuildFolder | None = None
    source: Source | None = None

    @staticmethod
    def of(
        spec: Path | str | LoadedSpec,
        device: str,
        progress: ProgressCallback,
        out: Path | None = None,
        cache: Cache | None = None,
        image_loss: ImageLoss | None = None,
    ) -> BuildSession:
        """Load a spec, its model and its lock, and decide what is to be done, given the patches in
        the folder `out`.

        Raises `SpecError` and `EditError`.
        """
        loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
        checkpoint = read_checkpoint(fetched(loaded, progress))
        base = checkpoint.digest()
        pin = loaded.spec.model.digest
        if pin is not None and not pin.startswith("sha256:") and pin != base:
            raise WeightsError(
                f"{loaded.weights} does not hold the weights that the spec pins: expected {pin}, found {base}.",
                "Get the pinned weights, or change model.digest.",
            )
        lock = read_lock(lock_path(loaded.path))
        cache = cache or default_cache()
        session = BuildSession(
            loaded, checkpoint, base, pick_device(device), cache, progress, lock, image_loss
        )
        session.source = network_of(loaded.spec.model, loaded.weights, loaded.path.parent)
        session.require_layers()
        session.folder = BuildFolder(out, patch_names(loaded), []) if out is not None else None
        session.decide()
        return session

    def with_spec(self, loaded: LoadedSpec) -> BuildSession:
        """The same under another text of its spec, which has the same model and the same names."""
        session = replace(self, loaded=loaded)
        session.decide()
        return session

    def decide(self) -> None:
        """Decide what is to be done with each edit."""
        self.steps = steps(
            self.loaded,
            self.base,
            self.lock,
            lambda number, locked: self.kept(number, locked) is not None,
        )

    @property
    def conventions(self) -> Compatibility:
        """How the numbers are made where the paper leaves it open."""
        return conventions(self.loaded.spec.compatibility)

    def require_layers(self) -> None:
        """Find a layer that the model lacks before any work is done: of a .pt checkpoint, only now
        is it known.
        """
        try:
            generator = self.generator()
        except PointError as error:
            where = ("model", "layers", error.layer, error.field)
            raise self.loaded.error(where, error.message, error.hint) from error
        document, layers = self.loaded.document, generator.architecture.layers
        problems = [
            document.problem(
                ("edits", number, "layer"),
                f"there is no {edit.layer} in these weights",
                f"known here: {', '.join(layers)}",
            )
            for number, edit in enumerate(self.loaded.spec.edits)
            if edit.layer not in layers
        ]
        if unfit := unfit_class(self.loaded.spec.model.class_label, generator.architecture):
            problems.append(document.problem(("model", "class_label"), *unfit))
        if problems:
            raise SpecError(document.file, problems, document.text)

    def after(self, count: int) -> BuildSession:
        """The same with the first `count` edits alone on the stack."""
        return replace(self, stack=self.stack[:count])

    def generator(self) -> Generator:
        """The generator as the edits so far left it."""
        spec = self.loaded.spec
        return make_generator(
            spec.model.family,
            apply_stack(self.checkpoint.generator, self.stack),
            precision=spec.precision,
            device=self.device,
            truncation=spec.model.truncation,
            class_label=spec.model.class_label,
            source=self.source,
            conventions=self.conventions,
        )

    def rule(self, number: int, generator: Generator) -> Rule:
        """The rule of edit `number` on the weights as they are now."""
        parent = self.stack[-1].metadata["result"] if self.stack else self.base
        return resolve(
            self.loaded,
            number,
            generator,
            self.base,
            parent,
            lambda: self.second_moment(generator, self.loaded.spec.edits[number].layer).matrix,
        )

    def stream(self, generator: Generator) -> LatentStream:
        """The latents that statistics are taken over."""
        spec = self.loaded.spec
        return LatentStream(
            spec.statistics.seed, generator.architecture.latent_size, spec.latents.sampler
        )

    def known_second_moment(self, generator: Generator, layer: str) -> Tensor | None:
        """C of a layer [n, n] where it is in the cache."""
        stream, samples = self.stream(generator), self.loaded.spec.statistics.samples
        key = second_moment_key(generator, layer, stream, samples, self.conventions)
        found = self.cache.find("statistics", key)
        return None if found is None else found["second_moment"]

    def second_moment(self, generator: Generator, layer: str) -> SecondMoment:
        """C of a layer, from the cache or computed."""
        samples = self.loaded.spec.statistics.samples
        return second_moment(
            generator,
            layer,
            self.stream(generator),
            samples,
            self.conventions,
            self.cache,
            lambda done, total: self.progress(f"statistics of {layer}", done, total),
        )

    def keys(self, generator: Generator, layer: str, seconds: dict[str, float]) -> Keys:
        """C and a sample of the keys of a layer, computed when they are asked for."""
        samples = self.loaded.spec.statistics.samples

        def moment() -> Tensor:
            with _timed(seconds, "statistics"):
                return self.second_moment(generator, layer).matrix

        def sample() -> Tensor:
            with _timed(seconds, "statistics"):
                return key_sample(
                    generator, layer, self.stream(generator), samples, self.conventions, self.cache
                )

        return Keys(moment, sample)

    def kept(self, number: int, locked: LockedEdit) -> Patch | None:
        """The patch of an edit that the lock names, from the folder or the cache; None where it
        lies in neither.
        """
        named = [self.folder.patch(number)] if self.folder else []
        for path in (*named, self.cache.path("patches", locked.patch)):
            try:
                patch = read_patch(path)
            except EditError:
                continue
            if patch.metadata["content"] == locked.patch:
                return patch
        return None

    def kept_rule(self, number: int, sha256: str) -> Rule | None:
        """The same for a rule, by the SHA-256 of its file."""
        named = [self.folder.rule(number)] if self.folder else []
        for path in (*named, self.cache.path("rules", sha256)):
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                return read_rule(path)
        return None

    def change(self, rule: Rule, generator: Generator, seconds: dict[str, float]) -> Patch:
        """What a rule changes, and the collateral that is predicted of it: from the cache, or
        solved.
        """
        losses: list[tuple[int, float]] = []

        def compute() -> dict[str, Tensor]:
            with _timed(seconds, "solve"):
                change = change_of(
                    rule,
                    generator,
                    self.keys(generator, rule.layer, seconds),
                    self.conventions,
                    lambda done, total: self.progress(f"solving {rule.edit}", done, total),
                    self.image_loss,
                    lambda step, loss: losses.append((step, loss)),
                )
                # A GPU is done when its numbers are here.
                tensors = {name: tensor.cpu() for name, tensor in change.tensors().items()}
            # The statistics are asked for by the method, in the middle of solving.
            seconds["solve"] = round(seconds["solve"] - seconds["statistics"], 4)
            return tensors

        key = self.solution_key(rule, generator)
        tensors, _ = self.cache.tensors("solutions", key, compute)
        if losses:
            self.cache.tensors(
                "losses", key, lambda: {"losses": torch.tensor(losses, dtype=torch.float64)}
            )
        change = Patch.of(tensors, {})
        axes = {layer.parameter: layer.axes for layer in generator.architecture.layers.values()}
        layouts = {
            name: axes.get(name) or _layout_of(self.checkpoint.generator[name])
            for name in change.parameters
        }
        return replace(
            change,
            metadata={
                "collateral": self.collateral(change, generator, seconds),
                "layouts": layouts,
            },
        )

    def solution_key(self, rule: Rule, generator: Generator) -> str:
        """The name of the solution of a rule in the cache."""
        spec = self.loaded.spec
        statistics = {"statistics": spec.statistics.model_dump(), "sampler": spec.latents.sampler}
        rule_digest = hashlib.sha256(rule.to_bytes()).hexdigest()
        return digest({"rule": rule_digest, **statistics, "environment": environment(generator)})

    def losses(self, rule: Rule, generator: Generator) -> list[tuple[int, float]]:
        """Step by step the losses that a solver went through, from the cache; none where it takes
        no steps, or where the rule was solved elsewhere.
        """
        found = self.cache.find("losses", self.solution_key(rule, generator))
        return (
            [] if found is None else [(int(step), loss) for step, loss in found["losses"].tolist()]
        )

    def collateral(
        self, change: Patch, generator: Generator, seconds: dict[str, float]
    ) -> dict[str, Any]:
        """The predicted collateral of every layer that changes, by the layer's name."""
        spec, found = self.loaded.spec, {}
        for name, layer in generator.architecture.layers.items():
            if layer.parameter in change.parameters:
                moment = self.keys(generator, name, seconds).moment()
                with _timed(seconds, "statistics"):
                    found[name] = predicted(
                        generator,
                        name,
                        change,
                        moment,
                        self.stream(generator),
                        spec.statistics.samples,
                        self.conventions,
                        self.cache,
                    ).as_json()
        return found

    def edit(self, number: int) -> BuiltEdit:
        """Put the patch of edit `number` on the stack: taken as it is where it is up to date, else
        built.
        """
        if not self.steps[number].current:
            return self.solved(number)
        locked = self.locked(number)
        patch = self.kept(number, locked)
        if patch is None:
            raise FileError(
                f"The patch of {locked.name} was removed while it was about to be used.",
                "Build again.",
            )
        rule = self.kept_rule(number, locked.rule) or self.rule(number, self.generator())
        self.stack.append(patch)
        return BuiltEdit(
            rule,
            patch,
            locked.loss,
            dict.fromkeys(STAGES, 0.0),
            CURRENT,
            locked,
            residual=locked.residual,
        )

    def locked(self, number: int) -> LockedEdit:
        """What the lock says of edit `number`, which it has."""
        assert self.lock is not None
        locked = self.lock.edit(self.loaded.spec.edits[number].name)
        assert locked is not None
        return locked

    def solved(self, number: int) -> BuiltEdit:
        """Compile and solve edit `number`, and put its patch on the stack."""
        seconds = dict.fromkeys(STAGES, 0.0)
        generator = self.generator()
        with _timed(seconds, "compile"):
            rule = self.rule(number, generator)
        change = self.change(rule, generator, seconds)
        result = apply_stack(self.checkpoint.generator, [*self.stack, change])
        patch = make_patch(
            change.directions,
            change.coefficients,
            change.metadata["layouts"],
            {
                "collateral": change.metadata["collateral"],
                "name": rule.edit,
                "family": rule.family,
                "layer": rule.layer,
                "rank": rule.rank,
                "solver": rule.solver.as_json(),
                "edit": rule.provenance["edit"],
                "base": self.base,
                "parent": rule.provenance["parent"],
                "result": tensors_digest(result),
            },
            change.deltas,
        )
        self.stack.append(patch)
        loss = loss_of(rule, generator, result)
        rule_bytes = rule.to_bytes()
        locked = LockedEdit(
            name=rule.edit,
            settings=edit_settings(self.loaded, number),
            files=edit_files(self.loaded, number),
            edit=patch.metadata["edit"],
            parent=patch.metadata["parent"],
            rule=hashlib.sha256(rule_bytes).hexdigest(),
            second_moment=tensor_digest(self.second_moment(generator, rule.layer).matrix),
            patch=patch.metadata["content"],
            result=patch.metadata["result"],
            loss=loss,
            residual=residual_of(rule, generator, result),
            environment=lock_environment(generator),
        )
        self.cache.keep("rules", locked.rule, rule_bytes)
        self.cache.keep("patches", locked.patch, patch.to_bytes())
        return BuiltEdit(
            rule, patch, loss, seconds, self.steps[number].status, locked, residual=locked.residual
        )

    def again(self, built: Sequence[BuiltEdit]) -> BuildSession:
        """A workshop of the same spec after this build, at its beginning: every edit is up to
        date.
        """
        current = [Step(step.name, CURRENT) for step in self.steps]
        return replace(self, lock=self.new_lock(built), stack=[], steps=current)

    def new_lock(self, built: Sequence[BuiltEdit]) -> Lock:
        """The lock of a build."""
        return Lock(
            format="editspec.lock",
            version=1,
            weights=self.base,
            settings=shared_settings(self.loaded),
            edits=[edit.locked for edit in built],
        )

    def require_unchanged(self) -> None:
        """Raise a `LockError` where there is no lock, or an input is not what it says."""
        path = lock_path(self.loaded.path)
        if self.lock is None:
            raise LockError(
                f"There is no {path}.", "Make it with editspec lock, and keep it in git."
            )
        if changes := input_changes(self.loaded, self.base, self.lock):
            raise LockError(
                f"{path} is out of date:\n  " + "\n  ".join(changes),
                "Build without --frozen (or run editspec lock), and commit the lock with the change.",
            )

    def require_same_artifacts(self, built: Sequence[BuiltEdit]) -> None:
        """Raise a `LockError` where an edit that was built again in the environment of the lock
        came out otherwise.
        """
        differences: list[str] = []
        for number, edit in enumerate(built):
            before = self.locked(number)
            if before.environment == edit.locked.environment:
                differences += artifact_differences(before, edit.locked)
        if differences:
            raise LockError(
                "The environment is that of the lock, and what came out is not:\n  "
                + "\n  ".join(differences),
                "The lock was edited, or something that the environment does not name has changed: build again "
                "without --frozen, and look at what changed.",
            )


def solve(
    spec: Path | str | LoadedSpec,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
    cache: Cache | None = None,
    image_loss: ImageLoss | None = None,
) -> list[BuiltEdit]:
    """Compile and solve every edit of a spec without writing a rule, a patch or a lock anywhere but
    in the cache.

    Parameters
    ----------
    cache
        Default: the user's.
    image_loss
        What ``all-weights`` minimises; default: the mean absolute difference where pixels count.
        The cache does not tell one from the other, so that a loss of one's own needs a cache of its
        own.

    Raises
    ------
    SpecError, EditError
        As `build` does.
    """
    session = BuildSession.of(spec, device, progress, cache=cache, image_loss=image_loss)
    return [session.solved(number) for number in range(len(session.loaded.spec.edits))]


def context_direction(session: BuildSession, number: int, generator: Generator) -> Tensor:
    """C^-1 k of the mean key of an edit's context, [in_channels], on the model as it is."""
    keys, weights = context_of(session.loaded, number, generator)
    moment = session.second_moment(generator, session.loaded.spec.edits[number].layer).matrix
    return mean_direction(moment, keys.cpu(), weights.cpu())[0].to(keys)


def _layout_of(parameter: Tensor) -> str:
    """The axes of a parameter: output, input, taps y and x; 1 for an axis that StyleGAN2 has before
    them.
    """
    return {5: "1 o i y x", 4: "o i y x", 2: "o i"}.get(
        parameter.ndim, " ".join("x" * parameter.ndim)
    )


def lock_environment(generator: Generator) -> dict[str, str]:
    """What the bits of an edit depend on beside its inputs, by name: packages, precision, device,
    threads.
    """
    version, _, device, precision, threads = environment(generator)
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "pillow")}
    if device == "cpu":
        device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    precision = precision.removeprefix("torch.")
    return {
        "editspec": version,
        **packages,
        "device": device,
        "precision": precision,
        "threads": threads,
    }


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[stage] = round(seconds[stage] + time.perf_counter() - begun, 4)
