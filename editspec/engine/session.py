"""A build session: a spec, its lock, its model, and the stack of patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from editspec.engine.built import STAGES, BuiltEdit, time_stage
from editspec.engine.changes import factors_of, layout_of, names_of_changed, rank_of
from editspec.engine.folder import BuildFolder, patch_names
from editspec.engine.lock import (
    CURRENT,
    MOVED,
    Lock,
    LockedEdit,
    Step,
    edit_files,
    edit_settings,
    lock_path,
    plan_steps,
    read_lock,
    shared_settings,
)
from editspec.engine.model_session import ModelSession, on_device
from editspec.engine.moved import rename_built
from editspec.engine.notes import STATED
from editspec.engine.opening import open_checkpoint
from editspec.engine.patch_files import number_files
from editspec.engine.resources import Resources
from editspec.engine.solution import solve_cached
from editspec.engine.warnings import warnings_of
from editspec_compiler import LoadedSpec, load
from editspec_runtime.core.executor import Executor
from editspec_runtime.core.method import OutputLoss
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.core.rule import CompiledEdit, LayerRule, ResolvedEdit
from editspec_runtime.errors import EditError, FileError
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest, tensor_digest
from editspec_runtime.maths.collateral import predict_collateral
from editspec_runtime.maths.environment import environment
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.methods.solve_edit import loss_of, residual_of
from editspec_runtime.patches.patch import Patch, layer_metadata, make_patch, read_patch


@dataclass
class BuildSession(ModelSession):
    """A spec that is being built: its model, its lock, and all that is to be done.

    Attributes
    ----------
    lock
        The lock of the spec; None where there is none.
    output_loss
        The loss of methods that compare outputs. Default: the mean absolute difference.
    steps
        The status of each edit, which says whether it is to be built.
    folder
        The folder of an earlier build, whose patches are taken.
    others
        Folders of other builds, in which the patches that the lock names are looked for, too.
    resolved
        The edits of the stack with their rules resolved, in the order of the stack.
    """

    lock: Lock | None = None
    output_loss: OutputLoss | None = None
    steps: list[Step] = field(default_factory=list)
    folder: BuildFolder | None = None
    others: tuple[BuildFolder, ...] = ()
    resolved: list[ResolvedEdit] = field(default_factory=list)

    @property
    def earlier(self) -> list[LayerRule]:
        """The rules of the edits of the stack, which later edits may have to keep."""
        return [rule for edit in self.resolved for rule in edit.rules]

    def after(self, count: int) -> Self:
        """Make the session with the first `count` edits alone on the stack."""
        return replace(super().after(count), resolved=self.resolved[:count])

    @staticmethod
    def of(
        spec: Path | str | LoadedSpec,
        device: str,
        progress: ProgressCallback,
        out: Path | None = None,
        cache: Cache | None = None,
        output_loss: OutputLoss | None = None,
        executor: Executor | None = None,
        allow_code: bool | None = None,
        *,
        needs_edits: bool = True,
    ) -> BuildSession:
        """Load a spec, its model and its lock, and decide what is to be done.

        Parameters
        ----------
        spec
            The spec, or its path.
        device
            ``auto``, ``cpu`` or ``cuda:N``.
        progress
            A callback that is called as the work goes on.
        out
            The folder of an earlier build, whose patches are taken. Default: none.
        cache
            The cache of results. Default: the cache of `Resources`.
        output_loss
            The loss of a method that needs outputs. Default: the mean absolute difference.
        executor
            The executor of independent items of work. Default: the executor of `Resources`.
        allow_code
            Whether foreign code that the spec names may run. Default: as `Resources` says.
        needs_edits
            Whether a spec without edits is an error.

        Raises
        ------
        SpecError, EditError
            The spec, its lock or its weights are wrong.
        """
        resources = Resources()
        loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
        if needs_edits:
            loaded.require_edits()
        allowed = resources.allow_code if allow_code is None else allow_code
        checkpoint, base = open_checkpoint(loaded, progress, allowed)
        lock = read_lock(lock_path(loaded.path))
        session = BuildSession(
            loaded,
            checkpoint,
            base,
            pick_device(device),
            cache or resources.cache,
            progress,
            lock=lock,
            output_loss=output_loss,
            allow_code=allowed,
            executor=executor or resources.executor,
        )
        session.require_layers()
        session.folder = BuildFolder(out, patch_names(loaded), []) if out is not None else None
        session.decide()
        return session

    def with_spec(self, loaded: LoadedSpec) -> BuildSession:
        """The session under another text of its spec, which keeps the model and the names."""
        session = replace(self, loaded=loaded)
        session.decide()
        return session

    def decide(self) -> None:
        """Decide for each edit whether it is to be built."""
        self.steps = plan_steps(
            self.loaded,
            self.base,
            self.lock,
            lambda number, locked: self.find_patch(number, locked) is not None,
        )

    @on_device
    def rule(self, number: int, model: Model) -> ResolvedEdit:
        """Edit `number` with its rules resolved on the weights as they are now.

        Where an edit has several rules, each needs those before it to be solved.
        """
        edit = self.compile(number)
        if len(edit.rules) == 1:
            return edit.with_rules([edit.rules[0](model)])
        return self.change(edit, model, dict.fromkeys(STAGES, 0.0))[0]

    def compile(self, number: int) -> CompiledEdit:
        """Edit `number`, its rules still to be resolved on the weights as they are now."""
        parent = self.stack[-1].metadata["result"] if self.stack else self.base
        return self.modality.compile(self, number, parent)

    def _places(self, kind: str, number: int, locked: LockedEdit, digest: str) -> Iterator[Path]:
        """Yield where a file may lie: in a folder, under its name or a former one, or kept."""
        names = [patch_names(self.loaded)[number]]
        if self.lock is not None and locked in self.lock.edits:
            former = number_files(edit.name for edit in self.lock.edits)
            names.append(former[self.lock.edits.index(locked)])
        folders = [*([self.folder] if self.folder else []), *self.others]
        for folder in folders:
            yield from (folder.root / kind / name for name in names)
        kept = self.cache.fetch(kind, digest)
        self.cache.mark_use(kept)
        yield kept

    def find_patch(self, number: int, locked: LockedEdit) -> Patch | None:
        """The patch of an edit that the lock names, from the folder or the cache.

        None where it lies in neither.
        """
        for path in self._places("patches", number, locked, locked.patch):
            try:
                patch = read_patch(path)
            except EditError:
                # A missing or damaged patch is built again.
                continue
            if patch.metadata["content"] == locked.patch:
                return patch
        return None

    def find_rule(self, number: int, locked: LockedEdit) -> ResolvedEdit | None:
        """The rules of an edit that the lock names, from the folder or the cache.

        None where they lie in neither.
        """
        for path in self._places("rules", number, locked, locked.rule):
            # A rule of another version, or a damaged one, is resolved again.
            with suppress(OSError, EditError):
                if hashlib.sha256(path.read_bytes()).hexdigest() == locked.rule:
                    return read_rule(path)
        return None

    @on_device
    def change(
        self, edit: CompiledEdit, model: Model, seconds: dict[str, float]
    ) -> tuple[ResolvedEdit, Patch]:
        """Solve an edit, or take its solution from the cache.

        Returns the edit with its rules resolved, and its change as a patch whose metadata holds the
        predicted collateral. The time that it takes is added to `seconds`.
        """
        solved = solve_cached(self, edit, model, seconds)
        change, rules = solved.change, solved.find_rules(model)
        metadata = {
            "collateral": self.collateral(change, model, [rule.layer for rule in rules], seconds),
            **change.metadata,
            **solved.notes,
        }
        return edit.with_rules(rules), replace(change, metadata=metadata)

    def layouts_of(self, change: Patch, model: Model) -> dict[str, str]:
        """The axes of the parameters of a change, as the checkpoint has them."""
        axes = {layer.parameter: layer.axes for layer in model.architecture.layers.values()}
        return {
            name: axes.get(name) or layout_of(self.checkpoint[name]) for name in change.parameters
        }

    def solution_key(self, rule: ResolvedEdit, model: Model) -> str:
        """The key of the solution of an edit in the cache, by its first rule."""
        first = replace(rule, rules=rule.rules[:1])
        rule_digest = hashlib.sha256(first.to_bytes()).hexdigest()
        sample = self.sample(model).fingerprint()
        return digest({"rule": rule_digest, "sample": sample, "environment": environment(model)})

    def losses(self, rule: ResolvedEdit, model: Model) -> list[tuple[int, float]]:
        """The losses of a solver as (step, loss), from the cache.

        There are none where the method takes no steps, or where the rule was solved elsewhere.
        """
        found = self.cache.find("losses", self.solution_key(rule, model))
        if found is None:
            return []
        return [(int(step), loss) for step, loss in found["losses"].tolist()]

    @on_device
    def collateral(
        self, change: Patch, model: Model, edited: Sequence[str], seconds: dict[str, float]
    ) -> dict[str, Any]:
        """The predicted collateral of every weight that changes, by the name of its layer.

        Of the layers of one weight, the one that is `edited` names it, else the first.
        """
        found = {}
        names = names_of_changed(model.architecture, change, edited)
        for name in names:
            layer = model.architecture.layers[name]
            moment = self.keys(model, name, seconds).moment()
            with time_stage(seconds, "statistics"):
                predicted = predict_collateral(
                    model,
                    name,
                    *factors_of(change, layer),
                    moment,
                    self.sample(model),
                    self.compatibility,
                    self.cache,
                )
            found[name] = predicted.as_json()
        return found

    @on_device
    def edit(self, number: int) -> BuiltEdit:
        """Put the patch of edit `number` on the stack.

        An edit that is up to date is taken as it is, and one that moved under its new name; any
        other is solved.
        """
        if not self.steps[number].current:
            return self.solve(number)
        locked = self.lock_entry(number)
        patch = self.find_patch(number, locked)
        if patch is None:
            raise FileError(
                f"The patch of {locked.name} was removed while it was about to be used.",
                "Build again.",
            )
        rule = self.find_rule(number, locked) or self.rule(number, self.current_model())
        status = self.steps[number].status
        if status == MOVED:
            rule, patch, locked = rename_built(self.loaded, number, rule, patch, locked)
            self._keep(locked, rule.to_bytes(), patch)
        self.stack.append(patch)
        self.resolved.append(rule)
        return BuiltEdit(
            rule,
            patch,
            locked.loss,
            dict.fromkeys(STAGES, 0.0),
            status,
            locked,
            residual=locked.residual,
            warnings=self.warnings(rule, patch),
        )

    def warnings(self, rule: ResolvedEdit, patch: Patch) -> tuple[str, ...]:
        """What is to be said of a patch, although it is right."""
        model = self.current_model()
        return warnings_of(rule, patch, model.architecture, self.sample(model))

    def lock_entry(self, number: int) -> LockedEdit:
        """The entry of edit `number` in the lock, which must have one."""
        assert self.lock is not None
        name, former = self.loaded.spec.edits[number].name, self.loaded.spec.former_names
        locked = self.lock.edit(name, former.get(name))
        assert locked is not None
        return locked

    @on_device
    def try_edit(self, number: int) -> Model:
        """Solve edit `number`, and return the model with it; the stack stays as it is.

        Nothing is said of the change: neither its collateral nor its digests.
        """
        model, seconds = self.current_model(), dict.fromkeys(STAGES, 0.0)
        change = solve_cached(self, self.compile(number), model, seconds).change
        weights = self.stacked.place([*self.stack, change], self.loaded.spec.precision, self.device)
        return model.with_weights(weights)

    @on_device
    def solve(self, number: int) -> BuiltEdit:
        """Compile and solve edit `number`, and put its patch on the stack."""
        seconds = dict.fromkeys(STAGES, 0.0)
        model = self.current_model()
        with time_stage(seconds, "compile"):
            compiled = self.compile(number)
        rule, change = self.change(compiled, model, seconds)
        result = self.stacked.apply([*self.stack, change])
        patch = make_patch(
            change.directions,
            change.coefficients,
            change.metadata["layouts"],
            {
                **{name: change.metadata[name] for name in STATED if name in change.metadata},
                "name": rule.name,
                "family": rule.family,
                **layer_metadata(rule.layers),
                "rank": rank_of(change, rule.rank),
                "solver": rule.method.as_json(),
                "edit": rule.provenance["edit"],
                "base": self.base,
                "parent": rule.provenance["parent"],
                "result": result.digest(),
            },
            change.deltas,
        )
        self.stack.append(patch)
        self.resolved.append(rule)
        loss = loss_of(rule, model, result)
        rule_bytes = rule.to_bytes()
        locked = LockedEdit(
            name=rule.name,
            settings=edit_settings(self.loaded, number),
            files=edit_files(self.loaded, number),
            edit=patch.metadata["edit"],
            parent=patch.metadata["parent"],
            rule=hashlib.sha256(rule_bytes).hexdigest(),
            second_moment=self.moments_digest(rule, model),
            patch=patch.metadata["content"],
            result=patch.metadata["result"],
            loss=loss,
            residual=residual_of(rule, model, result),
            environment=environment(model),
        )
        self._keep(locked, rule_bytes, patch)
        return BuiltEdit(
            rule,
            patch,
            loss,
            seconds,
            self.steps[number].status,
            locked,
            residual=locked.residual,
            warnings=self.warnings(rule, patch),
        )

    def _keep(self, locked: LockedEdit, rule: bytes, patch: Patch) -> None:
        """Keep the results of an edit in the cache, by the digests in its entry of the lock."""
        self.cache.keep("rules", locked.rule, rule)
        self.cache.keep("patches", locked.patch, patch.to_bytes())

    def moments_digest(self, rule: ResolvedEdit, model: Model) -> str:
        """The digest of C of the layers that an edit changes."""
        # One layer has the digest of its C itself, which other tools can compute from C alone.
        digests = [tensor_digest(self.second_moment(model, layer).matrix) for layer in rule.layers]
        return digests[0] if len(digests) == 1 else digest(digests)

    def rewind(self, built: Sequence[BuiltEdit]) -> BuildSession:
        """The session after this build, at its beginning: every edit is up to date."""
        current = [Step(step.name, CURRENT) for step in self.steps]
        lock = self.new_lock(built)
        return replace(self, lock=lock, stack=[], resolved=[], steps=current)

    def reopen(self) -> BuildSession:
        """The session at its beginning, with the lock of its spec read anew."""
        lock = read_lock(lock_path(self.loaded.path))
        session = replace(self, lock=lock, stack=[], resolved=[])
        session.decide()
        return session

    def new_lock(self, built: Sequence[BuiltEdit]) -> Lock:
        """The lock of a build."""
        return Lock(
            format="editspec.lock",
            version=1,
            weights=self.base,
            settings=shared_settings(self.loaded),
            sources=list(self.loaded.pins),
            edits=[edit.locked for edit in built],
        )
