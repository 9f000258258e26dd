"""What the commands do: a spec and a model in, rules, patches, weights and pictures out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from editspec.lock import (
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
    require_place,
    shared_settings,
    steps,
    write_lock,
)
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.references import unfit_class
from editspec_compiler.resolve import context_of, resolve, values_alone
from editspec_compiler.schema import Model
from editspec_runtime.baselines import ImageLoss
from editspec_runtime.cache import Cache, default_cache
from editspec_runtime.checkpoint import Checkpoint, container_of, read_checkpoint, weights_path
from editspec_runtime.collateral import predicted
from editspec_runtime.conventions import Conventions, conventions
from editspec_runtime.digest import digest, tensor_digest, tensors_digest
from editspec_runtime.directions import mean_direction
from editspec_runtime.errors import EditError, FileError, LockError, PatchError, UsageError, WeightsError
from editspec_runtime.families.module.exported import read_exported
from editspec_runtime.families.module.source import Points, Source, from_factory
from editspec_runtime.families.module.trace import PointError
from editspec_runtime.files import canonical_json, read_editspec_metadata, read_header, sweep, write
from editspec_runtime.generator import Generator
from editspec_runtime.latents import LatentStream
from editspec_runtime.models import make_generator, pick_device
from editspec_runtime.patch import FORMAT as PATCH_FORMAT
from editspec_runtime.patch import Patch, apply_stack, make_patch, read_patch, require_chain
from editspec_runtime.rule import Rule, read_rule
from editspec_runtime.shards import is_sharded, stored
from editspec_runtime.solution import Keys, change_of, loss_of, residual_of
from editspec_runtime.statistics import SecondMoment, environment, key_sample, second_moment, second_moment_key
from editspec_runtime.streaming import Applied, apply_stored

if TYPE_CHECKING:
    from PIL import Image

BUILD_FORMAT = "editspec.build"
WEIGHTS_FORMAT = "editspec.weights"
EXPORT_FORMAT = "editspec.export"
PAGE, STATEMENT = "report.html", "provenance.json"
PARETO = ("pareto.json", "pareto.png")
STAGES = ("compile", "statistics", "solve")

Report = Callable[[str, int, int], None]
"""Called with (what is being done, done, of all)."""


def quiet(what: str, done: int, total: int) -> None:
    """The report that says nothing."""


def fetched(loaded: LoadedSpec, report: Report = quiet) -> Path:
    """The file of a spec's weights, fetched into the cache where they lie elsewhere."""
    model = loaded.spec.model
    return weights_path(
        model.weights, loaded.path.parent, pin=model.digest,
        progress=lambda done, total: report(f"fetching {model.weights.partition('#')[0]}", done, total),
    )  # fmt: skip


def network_of(model: Model, weights: Path, folder: Path) -> Source | None:
    """The network of the family torch, from its code below `folder` or from its file; None of any other family."""
    if model.family != "torch":
        return None
    remake = partial(from_factory, model.module, folder) if model.module else partial(read_exported, weights)
    module, code = remake()
    points = {}
    for name, given in (model.layers or {}).items():
        edited = given.parameter.rpartition(".")[0] if given.parameter else str(given.key)
        points[name] = Points(given.key or edited, given.value or edited, given.parameter or f"{edited}.weight")
    return Source(module, code, points, tuple(model.latent_shape) if model.latent_shape else None, remake)


def generator_of(loaded: LoadedSpec, device: str = "auto") -> Generator:
    """The unedited generator of a spec. Raises as `compile` does."""
    return Workshop.of(loaded, device, quiet).generator()


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
        mean |V* - f(K*; W)| with the weights that the patch gives; of ``all-weights`` the mean absolute difference of
        pixels.
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
class Workshop:
    """A spec with its model, and the stack of patches as it grows."""

    loaded: LoadedSpec
    checkpoint: Checkpoint
    base: str
    device: torch.device
    cache: Cache
    report: Report
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
        report: Report,
        out: Path | None = None,
        cache: Cache | None = None,
        image_loss: ImageLoss | None = None,
    ) -> Workshop:
        """Load a spec, its model and its lock, and decide what is to be done, given the patches in the folder `out`.

        Raises `SpecError` and `EditError`.
        """
        loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
        checkpoint = read_checkpoint(fetched(loaded, report))
        base = checkpoint.digest()
        pin = loaded.spec.model.digest
        if pin is not None and not pin.startswith("sha256:") and pin != base:
            raise WeightsError(
                f"{loaded.weights} does not hold the weights that the spec pins: expected {pin}, found {base}.",
                "Get the pinned weights, or change model.digest.",
            )
        lock = read_lock(lock_path(loaded.path))
        cache = cache or default_cache()
        workshop = Workshop(loaded, checkpoint, base, pick_device(device), cache, report, lock, image_loss)
        workshop.source = network_of(loaded.spec.model, loaded.weights, loaded.path.parent)
        workshop.require_layers()
        workshop.folder = BuildFolder(out, _names(loaded), []) if out is not None else None
        workshop.decide()
        return workshop

    def with_spec(self, loaded: LoadedSpec) -> Workshop:
        """The same under another text of its spec, which has the same model and the same names."""
        workshop = replace(self, loaded=loaded)
        workshop.decide()
        return workshop

    def decide(self) -> None:
        """Decide what is to be done with each edit."""
        self.steps = steps(
            self.loaded, self.base, self.lock, lambda number, locked: self.kept(number, locked) is not None
        )

    @property
    def conventions(self) -> Conventions:
        """How the numbers are made where the paper leaves it open."""
        return conventions(self.loaded.spec.compatibility)

    def require_layers(self) -> None:
        """Find a layer that the model lacks before any work is done: of a .pt checkpoint, only now is it known."""
        try:
            generator = self.generator()
        except PointError as error:
            where = ("model", "layers", error.layer, error.field)
            raise self.loaded.error(where, error.message, error.remedy) from error
        document, layers = self.loaded.document, generator.layout.layers
        problems = [
            document.problem(
                ("edits", number, "layer"),
                f"there is no {edit.layer} in these weights",
                f"known here: {', '.join(layers)}",
            )
            for number, edit in enumerate(self.loaded.spec.edits)
            if edit.layer not in layers
        ]
        if unfit := unfit_class(self.loaded.spec.model.class_label, generator.layout):
            problems.append(document.problem(("model", "class_label"), *unfit))
        if problems:
            raise SpecError(document.file, problems, document.text)

    def after(self, count: int) -> Workshop:
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
            self.loaded, number, generator, self.base, parent,
            lambda: self.second_moment(generator, self.loaded.spec.edits[number].layer).matrix,
        )  # fmt: skip

    def stream(self, generator: Generator) -> LatentStream:
        """The latents that statistics are taken over."""
        spec = self.loaded.spec
        return LatentStream(spec.statistics.seed, generator.layout.latent_size, spec.latents.sampler)

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
            generator, layer, self.stream(generator), samples, self.conventions, self.cache,
            lambda done, total: self.report(f"statistics of {layer}", done, total),
        )  # fmt: skip

    def keys(self, generator: Generator, layer: str, seconds: dict[str, float]) -> Keys:
        """C and a sample of the keys of a layer, computed when they are asked for."""
        samples = self.loaded.spec.statistics.samples

        def moment() -> Tensor:
            with _timed(seconds, "statistics"):
                return self.second_moment(generator, layer).matrix

        def sample() -> Tensor:
            with _timed(seconds, "statistics"):
                return key_sample(generator, layer, self.stream(generator), samples, self.conventions, self.cache)

        return Keys(moment, sample)

    def kept(self, number: int, locked: LockedEdit) -> Patch | None:
        """The patch of an edit that the lock names, from the folder or the cache; None where it lies in neither."""
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
        """What a rule changes, and the collateral that is predicted of it: from the cache, or solved."""
        losses: list[tuple[int, float]] = []

        def compute() -> dict[str, Tensor]:
            with _timed(seconds, "solve"):
                change = change_of(
                    rule, generator, self.keys(generator, rule.layer, seconds), self.conventions,
                    lambda done, total: self.report(f"solving {rule.edit}", done, total),
                    self.image_loss,
                    lambda step, loss: losses.append((step, loss)),
                )  # fmt: skip
                # A GPU is done when its numbers are here.
                tensors = {name: tensor.cpu() for name, tensor in change.tensors().items()}
            # The statistics are asked for by the method, in the middle of solving.
            seconds["solve"] = round(seconds["solve"] - seconds["statistics"], 4)
            return tensors

        key = self.solution_key(rule, generator)
        tensors, _ = self.cache.tensors("solutions", key, compute)
        if losses:
            self.cache.tensors("losses", key, lambda: {"losses": torch.tensor(losses, dtype=torch.float64)})
        change = Patch.of(tensors, {})
        axes = {layer.parameter: layer.axes for layer in generator.layout.layers.values()}
        layouts = {name: axes.get(name) or _layout_of(self.checkpoint.generator[name]) for name in change.parameters}
        return replace(change, metadata={"collateral": self.collateral(change, generator, seconds), "layouts": layouts})

    def solution_key(self, rule: Rule, generator: Generator) -> str:
        """The name of the solution of a rule in the cache."""
        spec = self.loaded.spec
        statistics = {"statistics": spec.statistics.model_dump(), "sampler": spec.latents.sampler}
        rule_digest = hashlib.sha256(rule.to_bytes()).hexdigest()
        return digest({"rule": rule_digest, **statistics, "environment": environment(generator)})

    def losses(self, rule: Rule, generator: Generator) -> list[tuple[int, float]]:
        """Step by step the losses that a solver went through, from the cache; none where it takes no steps, or where
        the rule was solved elsewhere."""
        found = self.cache.find("losses", self.solution_key(rule, generator))
        return [] if found is None else [(int(step), loss) for step, loss in found["losses"].tolist()]

    def collateral(self, change: Patch, generator: Generator, seconds: dict[str, float]) -> dict[str, Any]:
        """The predicted collateral of every layer that changes, by the layer's name."""
        spec, found = self.loaded.spec, {}
        for name, layer in generator.layout.layers.items():
            if layer.parameter in change.parameters:
                moment = self.keys(generator, name, seconds).moment()
                with _timed(seconds, "statistics"):
                    found[name] = predicted(
                        generator, name, change, moment, self.stream(generator), spec.statistics.samples,
                        self.conventions, self.cache,
                    ).as_json()  # fmt: skip
        return found

    def edit(self, number: int) -> BuiltEdit:
        """Put the patch of edit `number` on the stack: taken as it is where it is up to date, else built."""
        if not self.steps[number].current:
            return self.solved(number)
        locked = self.locked(number)
        patch = self.kept(number, locked)
        if patch is None:
            raise FileError(f"The patch of {locked.name} was removed while it was about to be used.", "Build again.")
        rule = self.kept_rule(number, locked.rule) or self.rule(number, self.generator())
        self.stack.append(patch)
        return BuiltEdit(
            rule, patch, locked.loss, dict.fromkeys(STAGES, 0.0), CURRENT, locked, residual=locked.residual
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
        return BuiltEdit(rule, patch, loss, seconds, self.steps[number].status, locked, residual=locked.residual)

    def again(self, built: Sequence[BuiltEdit]) -> Workshop:
        """A workshop of the same spec after this build, at its beginning: every edit is up to date."""
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
            raise LockError(f"There is no {path}.", "Make it with editspec lock, and keep it in git.")
        if changes := input_changes(self.loaded, self.base, self.lock):
            raise LockError(
                f"{path} is out of date:\n  " + "\n  ".join(changes),
                "Build without --frozen (or run editspec lock), and commit the lock with the change.",
            )

    def require_same_artifacts(self, built: Sequence[BuiltEdit]) -> None:
        """Raise a `LockError` where an edit that was built again in the environment of the lock came out otherwise."""
        differences: list[str] = []
        for number, edit in enumerate(built):
            before = self.locked(number)
            if before.environment == edit.locked.environment:
                differences += artifact_differences(before, edit.locked)
        if differences:
            raise LockError(
                "The environment is that of the lock, and what came out is not:\n  " + "\n  ".join(differences),
                "The lock was edited, or something that the environment does not name has changed: build again "
                "without --frozen, and look at what changed.",
            )


def compile(
    spec: Path | str | LoadedSpec, out: Path | str | None = None, *, device: str = "auto", report: Report = quiet
) -> list[Rule]:
    """The rules of a spec, written to `out`/rules where it is given.

    Edit n is compiled on the model as edit n - 1 left it, whose patch is taken from `out` or the cache, else solved.

    Raises
    ------
    SpecError
        The spec is wrong.
    EditError
        The weights or the numbers are, or `out` is in the way.
    """
    out = Path(out) if out is not None else None
    workshop = Workshop.of(spec, device, report, out)
    edits = workshop.loaded.spec.edits
    folder = BuildFolder.prepare(out, _names(workshop.loaded)) if out is not None else None
    rules = []
    for number in range(len(edits)):
        last = number == len(edits) - 1
        rule = workshop.rule(number, workshop.generator()) if last else workshop.edit(number).rule
        if folder:
            folder.keep(folder.rule(number), rule.to_bytes())
        rules.append(rule)
    if folder:
        folder.finish([{"name": rule.edit, "layer": rule.layer, "rank": rule.rank} for rule in rules], patches=False)
    return rules


def solve(
    spec: Path | str | LoadedSpec,
    *,
    device: str = "auto",
    report: Report = quiet,
    cache: Cache | None = None,
    image_loss: ImageLoss | None = None,
) -> list[BuiltEdit]:
    """Compile and solve every edit of a spec without writing a rule, a patch or a lock anywhere but in the cache.

    Parameters
    ----------
    cache
        Default: the user's.
    image_loss
        What ``all-weights`` minimises; default: the mean absolute difference where pixels count. The cache does not
        tell one from the other, so that a loss of one's own needs a cache of its own.

    Raises
    ------
    SpecError, EditError
        As `build` does.
    """
    workshop = Workshop.of(spec, device, report, cache=cache, image_loss=image_loss)
    return [workshop.solved(number) for number in range(len(workshop.loaded.spec.edits))]


def build(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    frozen: bool = False,
    page: bool = False,
    provenance: bool = False,
    pareto: bool = False,
    pick: str | None = None,
    device: str = "auto",
    report: Report = quiet,
) -> list[BuiltEdit]:
    """Compile and solve every edit of a spec: rules, patches and manifest.json in the folder `out`, and ``SPEC.lock``.

    A folder that an earlier build made is brought up to date: only edits that are new, changed, or dependent on
    these are solved. With `frozen` the lock is not written but obeyed. With `page` all that can be told of the build
    is written, too: `out`/report.html; with `provenance` an in-toto statement of what it was made from:
    `out`/provenance.json; with `pareto` what each smoothness gives, as numbers and as a picture: `out`/pareto.json and
    pareto.png. With `pick`, ``N`` or ``NAME=N``, the smoothness of point N in the pareto.json of an earlier build is
    first written into the spec; then it is built, with `pareto`.

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    LockError
        With `frozen`, where an input is not as the lock has it, or an artifact came out otherwise in the same
        environment.
    UsageError
        With `pareto`, where no edit is solved by least squares; with `pick`, where there is no such point, or the spec
        cannot be changed.
    EditError
        The weights or the numbers are wrong, or `out` is in the way.
    """
    if frozen and pick is not None:
        raise UsageError("--pick changes the spec, which --frozen builds as its lock has it.", "Leave one of them out.")
    pareto = pareto or pick is not None
    workshop = Workshop.of(spec, device, report, Path(out))
    if pareto and not any(edit.solver.method == "least-squares" for edit in workshop.loaded.spec.edits):
        raise UsageError(
            "--pareto is for edits that are solved by least-squares, and this spec has none.",
            "Write solver: least-squares.",
        )
    if frozen:
        workshop.require_unchanged()
    else:
        require_place(lock_path(workshop.loaded.path))
    if pick is not None:
        from editspec.picking import picked

        workshop = workshop.with_spec(picked(workshop, Path(out), pick))
    beside = [name for name, wanted in ((PAGE, page), (STATEMENT, provenance)) if wanted]
    beside += PARETO if pareto else ()
    folder = workshop.folder = BuildFolder.prepare(Path(out), _names(workshop.loaded), beside)
    built = []
    for number in range(len(workshop.loaded.spec.edits)):
        edit = workshop.edit(number)
        folder.keep(folder.rule(number), edit.rule.to_bytes())
        folder.keep(folder.patch(number), edit.patch.to_bytes())
        built.append(replace(edit, path=folder.patch(number)))
    if frozen:
        workshop.require_same_artifacts(built)
    if page:
        from editspec.page import build_page

        folder.keep(folder.root / PAGE, build_page(workshop, built))
    if provenance:
        from editspec.provenance import statement

        folder.keep(folder.root / STATEMENT, statement(workshop, built))
    if pareto:
        from editspec.pareto import curves, picture
        from editspec.pictures import png_bytes

        found = curves(workshop, built)
        folder.keep(folder.root / PARETO[0], (json.dumps({"curves": found}, indent=2, sort_keys=True) + "\n").encode())
        folder.keep(folder.root / PARETO[1], png_bytes(picture(found)))
    folder.finish([_entry(edit) for edit in built])
    if not frozen:
        write_lock(lock_path(workshop.loaded.path), workshop.new_lock(built))
    return built


def lock(spec: Path | str | LoadedSpec, *, device: str = "auto", report: Report = quiet) -> Lock:
    """Build a spec into the cache alone, write ``SPEC.lock``, and return it. Raises as `build` does."""
    workshop = Workshop.of(spec, device, report)
    require_place(lock_path(workshop.loaded.path))
    made = workshop.new_lock([workshop.edit(number) for number in range(len(workshop.loaded.spec.edits))])
    write_lock(lock_path(workshop.loaded.path), made)
    return made


def check_lock(spec: Path | str | LoadedSpec) -> Lock:
    """The lock of a spec, where every input is as it says; nothing is built.

    Patches and rules in the cache that bear the digests of the lock are what they were by these very digests; what
    comes out of a new build is compared by ``build --frozen``.

    Raises
    ------
    LockError
        There is no lock, or an input has changed.
    """
    workshop = Workshop.of(spec, "cpu", quiet)
    workshop.require_unchanged()
    assert workshop.lock is not None
    return workshop.lock


def apply(model: str | Path, patches: Sequence[Path | str], out: Path | str | None, *, scale: float = 1.0) -> Applied:
    """Apply a whole stack of patches to its base and write the weights to `out` (None: write nothing, only say).

    Safetensors, of one file or of several with an index, are streamed: a few MiB are in memory at a time. `out` has
    the form of the base: a file, or for several files a folder. With a `scale` other than 1 the sum of the changes is
    multiplied by it, and the result is not one that a patch names.

    Raises
    ------
    PatchError
        A patch is damaged, or was solved on other weights.
    FileError
        A file is missing or damaged, or something that editspec did not write lies at `out`.
    """
    base_path = weights_path(str(model), Path())
    stack = [read_patch(Path(patch)) for patch in patches]
    place = Path(out) if out is not None else None
    if is_sharded(base_path):
        weights = stored(base_path)
        if place is not None:
            _require_own_or_free_folder(place)
    else:
        if place is not None:
            require_own_or_free(place)
        if container_of(base_path) != "safetensors":
            return _apply_in_memory(base_path, stack, place, scale)
        weights = stored(base_path)

    def accept(base: str, result: str) -> None:
        require_belonging(base_path, weights.metadata, base, stack)
        require_named(result, stack, scale)

    return apply_stored(
        weights, stack, place, lambda base, result: _weights_metadata(base, result, stack, scale), accept, scale
    )


def _apply_in_memory(base_path: Path, stack: Sequence[Patch], out: Path | None, scale: float) -> Applied:
    """The same for a container that can only be read whole."""
    checkpoint = read_checkpoint(base_path)
    base = checkpoint.digest()
    require_belonging(base_path, checkpoint.metadata, base, stack)
    weights = apply_stack(checkpoint.generator, stack, scale)
    result = tensors_digest(weights)
    require_named(result, stack, scale)
    if out is not None:
        write(out, checkpoint.with_generator(weights, _weights_metadata(base, result, stack, scale)).to_bytes())
    changed = {}
    for name in sorted({name for patch in stack for name in patch.parameters}):
        before, after = checkpoint.generator[name].double(), weights[name].double()
        changed[name] = float((after - before).norm() / before.norm())
    return Applied(base, result, changed)


def _weights_metadata(base: str, result: str, stack: Sequence[Patch], scale: float) -> dict[str, object]:
    """What edited weights say of themselves."""
    contents = [patch.metadata["content"] for patch in stack]
    scaled = {"scale": scale} if scale != 1.0 else {}
    return {"format": WEIGHTS_FORMAT, "version": 1, "base": base, "patches": contents, "result": result, **scaled}


def require_belonging(path: Path, metadata: Mapping[str, Any], base: str, stack: Sequence[Patch]) -> None:
    """Raise a `PatchError` unless a stack was built on these weights."""
    if metadata.get("patches") and stack and stack[0].metadata["parent"] != base:
        raise PatchError(
            f"{path} holds weights {base} that editspec edited already (from {metadata['base']}), "
            f"and patch {stack[0].name} was solved on weights {stack[0].metadata['parent']}.",
            "Give the unedited base, and the whole stack of patches.",
        )
    require_chain(base, stack)


def require_named(result: str, stack: Sequence[Patch], scale: float = 1.0) -> None:
    """Raise a `PatchError` unless the result is what the last patch names; a scaled one is named by none."""
    if stack and scale == 1.0 and result != stack[-1].metadata["result"]:
        raise PatchError(
            f"The result has digest {result}, and patch {stack[-1].name} names {stack[-1].metadata['result']}.",
            "The patches are not what was built; build them again.",
        )


def statistics(
    spec: Path | str | LoadedSpec, *, device: str = "auto", report: Report = quiet
) -> list[tuple[str, str, SecondMoment]]:
    """Edit, layer and second moment of every edit, on the model as the edits before left it."""
    workshop = Workshop.of(spec, device, report)
    edits = workshop.loaded.spec.edits
    found = []
    for number, edit in enumerate(edits):
        found.append((edit.name, edit.layer, workshop.second_moment(workshop.generator(), edit.layer)))
        if number < len(edits) - 1:
            workshop.edit(number)
    return found


def render(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    show: Literal["edits", "value", "key"] = "edits",
    count: int = 16,
    seed: int = 3,
    device: str = "auto",
    report: Report = quiet,
) -> None:
    """A picture of what the edits of a spec do, or of what they are made of.

    Parameters
    ----------
    show
        ``edits``: `count` images of the latent stream `seed`, before and after all edits. ``value``: for every edit the
        images that its values come from, and what each value draws alone (paper Fig. 2d). ``key``: for every edit the
        `count` images of the stream in which the key of its context matches best, lit where it does (Fig. 2c).
    """
    from editspec.pictures import before_and_after, png_bytes

    out = Path(out)
    require_free_picture(out)
    workshop = Workshop.of(spec, device, report)
    if show != "edits":
        write(out, png_bytes(_memory_picture(workshop, show, count, seed)))
        return
    before = workshop.generator()
    for number in range(len(workshop.loaded.spec.edits)):
        workshop.edit(number)
    stream = LatentStream(seed, before.layout.latent_size, workshop.loaded.spec.latents.sampler)
    latents = stream.items(range(count)).to(before.weight(workshop.loaded.spec.edits[0].layer))
    images = _drawn(before, latents), _drawn(workshop.generator(), latents)
    write(out, png_bytes(before_and_after(*images)))


def require_free_picture(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is no picture of ours."""
    from editspec.pictures import is_own_picture

    if out.exists() and not is_own_picture(out):
        raise FileError(f"{out} is in the way: editspec did not make it.", "Remove it, or give another name.")


def drawn_by(checkpoint: Checkpoint, path: Path, count: int, seed: int = 3) -> Tensor:
    """Images [count, 3, size, size] of the latent stream `seed` as a checkpoint's generator draws them, on the CPU.

    Raises `WeightsError` where it is of no family.
    """
    from editspec.inspection import known_layout

    family = known_layout(checkpoint, path).family
    generator = make_generator(family, checkpoint.generator)
    latents = LatentStream(seed, generator.layout.latent_size).items(range(count))
    return _drawn(generator, generator.fitted(latents))


def _memory_picture(workshop: Workshop, show: Literal["value", "key"], count: int, seed: int) -> Image.Image:
    """Values or keys of every edit, each on the model as the edits before left it."""
    from editspec.memory import drawn_alone, matches
    from editspec.pictures import before_and_after, spotlight, stacked

    pictures, loaded = [], workshop.loaded
    for number, edit in enumerate(loaded.spec.edits):
        generator = workshop.generator()

        def moment(generator: Generator = generator, layer: str = edit.layer) -> Tensor:
            return workshop.second_moment(generator, layer).matrix

        if show == "value":
            values = values_alone(loaded, number, generator, moment)
            images = drawn_alone(generator, edit.layer, values)
            labels = ("image", "value")
        else:
            direction = context_direction(workshop, number, generator)
            stream = LatentStream(seed, generator.layout.latent_size, loaded.spec.latents.sampler)
            found, light, _ = matches(generator, edit.layer, direction, stream, count, workshop.conventions)
            images, labels = (found, spotlight(found, light)), ("image", "match")
        above, below = (batch.float().cpu() for batch in images)
        pictures.append(before_and_after(above, below, labels))
        if number < len(loaded.spec.edits) - 1:
            workshop.edit(number)
    return stacked(pictures)


def context_direction(workshop: Workshop, number: int, generator: Generator) -> Tensor:
    """C^-1 k of the mean key of an edit's context, [in_channels], on the model as it is."""
    keys, weights = context_of(workshop.loaded, number, generator)
    moment = workshop.second_moment(generator, workshop.loaded.spec.edits[number].layer).matrix
    return mean_direction(moment, keys.cpu(), weights.cpu())[0].to(keys)


@torch.no_grad()
def _drawn(generator: Generator, latents: Tensor) -> Tensor:
    """The images of `latents`, one at a time: under the authors' conventions a batch would change them."""
    return torch.cat([generator.images(latent[None]) for latent in latents]).float().cpu()


@dataclass
class BuildFolder:
    """The output of a build: rules, patches, what is told of it `beside` them, and a manifest that names them all."""

    root: Path
    names: list[str]
    before: list[str]
    beside: Sequence[str] = ()

    @staticmethod
    def prepare(root: Path, names: list[str], beside: Sequence[str] = ()) -> BuildFolder:
        """Take a new or empty folder, or one that an earlier build made. Raises `FileError` for any other."""
        if root.exists() and not root.is_dir():
            raise FileError(f"{root} is a file, and a folder is to be made there.", "Give another folder.")
        manifest = root / "manifest.json"
        try:
            found = [path for path in root.iterdir() if path.suffix != ".part"] if root.exists() else []
        except OSError as error:
            raise FileError(f"{root} cannot be read: {error.strerror}.") from error
        before: list[str] = []
        if found:
            before = _own_files(manifest)
            sweep(root)
        for name in beside:
            if name not in before and (root / name).exists():
                raise FileError(f"{root / name} is in the way: no build of editspec made it.", "Move it elsewhere.")
        # From now on the folder is known as a build's, whatever interrupts it.
        planned = [f"{kind}/{name}" for name in names for kind in ("rules", "patches")]
        _write_manifest(manifest, sorted({*before, *planned, *beside}), [])
        return BuildFolder(root, names, before, beside)

    def rule(self, number: int) -> Path:
        """Where the rule of an edit lies."""
        return self.root / "rules" / self.names[number]

    def patch(self, number: int) -> Path:
        """Where the patch of an edit lies."""
        return self.root / "patches" / self.names[number]

    def keep(self, path: Path, data: bytes) -> None:
        """Write a file unless it is there already as it should be."""
        if not (path.is_file() and path.read_bytes() == data):
            write(path, data)

    def finish(self, edits: list[dict[str, Any]], *, rules: bool = True, patches: bool = True) -> None:
        """Remove what an earlier build made and this one did not, and write the manifest."""
        files = [*self.beside, *(f"rules/{name}" for name in self.names if rules)]
        if patches:
            files += [f"patches/{name}" for name in self.names]
        for stale in set(self.before) - set(files) - {f"patches/{name}" for name in self.names}:
            (self.root / stale).unlink(missing_ok=True)
        _write_manifest(self.root / "manifest.json", files, edits)


def _names(loaded: LoadedSpec) -> list[str]:
    return [f"{number:02d}-{edit.name}.safetensors" for number, edit in enumerate(loaded.spec.edits, start=1)]


def _entry(edit: BuiltEdit) -> dict[str, Any]:
    """What the manifest says of an edit: all of it follows from the inputs."""
    metadata = edit.patch.metadata
    names = ("name", "layer", "rank", "base", "parent", "result", "edit", "collateral")
    return {name: metadata[name] for name in names} | {"digest": metadata["content"], "loss": edit.loss}


def _write_manifest(path: Path, files: list[str], edits: list[dict[str, Any]]) -> None:
    manifest = {"format": BUILD_FORMAT, "version": 1, "files": sorted(files), "edits": edits}
    write(path, (json.dumps(json.loads(canonical_json(manifest)), indent=2, sort_keys=True) + "\n").encode())


def _own_files(manifest: Path) -> list[str]:
    """The files that a manifest names. Raises `FileError` where there is no manifest of a build."""
    try:
        content = json.loads(manifest.read_text())
        if content["format"] != BUILD_FORMAT:
            raise KeyError("format")
        # A manifest is a file like any other: what it names is only touched where it is what a build makes.
        return [name for name in content["files"] if name in (PAGE, STATEMENT, *PARETO) or _is_inside(name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{manifest.parent} is not empty, and no build of editspec made it.", "Give a new or empty folder."
        ) from error


def _is_inside(name: str) -> bool:
    return len(Path(name).parts) == 2 and ".." not in Path(name).parts


def require_free_patch(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is no patch."""
    _require_free(out, PATCH_FORMAT)


def require_free_export(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that `export` did not write."""
    _require_free(out, EXPORT_FORMAT)


def _require_own_or_free_folder(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is no folder of weights that `apply` wrote."""
    if out.is_dir() and not any(out.iterdir()):
        return
    try:
        if not out.exists() or stored(out).metadata.get("format") == WEIGHTS_FORMAT:
            return
    except EditError:
        pass
    raise FileError(f"{out} is in the way: editspec did not write it.", "Remove it, or give another name.")


def require_own_folder(out: Path, mark: str, maker: str) -> None:
    """Raise a `FileError` unless `out` is new, empty, or holds the file `mark` of an earlier run of its `maker`."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / mark).is_file())):
        raise FileError(f"{out} is in the way: no {maker} of editspec made it.", "Give a new or empty folder.")


def require_own_or_free(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that neither `apply` nor `convert` wrote."""
    _require_free(out, WEIGHTS_FORMAT)


def _require_free(out: Path, own: str) -> None:
    """Raise a `FileError` where something lies at `out` that is no safetensors file of our format `own`."""
    if not out.exists():
        return
    try:
        if read_editspec_metadata(read_header(out), out).get("format") == own:
            return
    except EditError:
        pass
    raise FileError(f"{out} is in the way: editspec did not write it.", "Remove it, or give another name.")


def _layout_of(parameter: Tensor) -> str:
    """The axes of a parameter: output, input, taps y and x; 1 for an axis that StyleGAN2 has before them."""
    return {5: "1 o i y x", 4: "o i y x", 2: "o i"}.get(parameter.ndim, " ".join("x" * parameter.ndim))


def lock_environment(generator: Generator) -> dict[str, str]:
    """What the bits of an edit depend on beside its inputs, by name: packages, precision, device, threads."""
    version, _, device, precision, threads = environment(generator)
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "pillow")}
    if device == "cpu":
        device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    precision = precision.removeprefix("torch.")
    return {"editspec": version, **packages, "device": device, "precision": precision, "threads": threads}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[stage] = round(seconds[stage] + time.perf_counter() - begun, 4)
