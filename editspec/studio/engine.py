"""Computation behind a draft: images, composites, heat maps, searches and builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from editspec.commands.build import build
from editspec.engine.built import BuiltEdit
from editspec.engine.pareto import ParetoPoint, measure_curve
from editspec.engine.resources import Resources, is_code_allowed
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.explore import SimilarPlace, find_similar_places
from editspec.modalities.image.pictures import data_url
from editspec.modalities.image.traces import UnseenTraces
from editspec.studio.base import Base, ModelSettings, RecentGenerators
from editspec.studio.draft import Draft
from editspec.studio.drawing import encode, encode_grey, light
from editspec.studio.jobs import Jobs, Work
from editspec.studio.looking import (
    choose_preserved,
    fields_that_preserve,
    find_own_latents,
    measure_unseen,
)
from editspec.studio.outcomes import Outcome, Outcomes
from editspec.studio.parsed import digest_content
from editspec.studio.spec_editor import put_fields
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.modalities.image.expected import expected_outputs
from editspec_compiler.modalities.image.inputs import spec_latent
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.places import moment_of
from editspec_compiler.modalities.image.schema import Mask
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.files import write
from editspec_runtime.methods.registry import method_of, methods_with_a_curve
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.patches.patch import apply_stack

MODELS = 6
"""The number of edited generators that are kept in memory."""

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """Places that a search has found for an edit, and the layer that it looked at."""

    layer: str
    places: tuple[SimilarPlace, ...]


class Engine:
    """The computation of a studio.

    Images are drawn on one thread, and long work is done on another.
    """

    def __init__(self, draft: Draft, jobs: Jobs, device: str) -> None:
        self.draft, self.jobs, self.device_name = draft, jobs, device
        self.allow_code = is_code_allowed()
        self.device = pick_device(device)
        self.outcomes = Outcomes()
        self.found: dict[int, Found] = {}
        self._curves: dict[str, tuple[ParetoPoint, ...]] = {}
        self._traces: dict[str, UnseenTraces] = {}
        self._generators = RecentGenerators(MODELS)
        self._base: Base | None = None
        self._base_text = ""
        self._opening = RLock()
        # One thread: requests for images come together, and two forward passes at a time would
        # only fight for the same cores.
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="drawing")

    def base(self) -> Base:
        """Return the model that the text names, or else the model before it.

        The text may be unreadable, or name a model that is not there. Raises `SpecError` and
        `EditError` where no model was opened before.
        """
        draft, base = self.draft.snapshot(), self._base
        if base is not None and draft.text == self._base_text:
            return base
        # Without the lock, as a large text takes long.
        settings = _read_settings(draft)
        with self._opening:
            # Where the text has changed meanwhile, its own request opens its model.
            if self._base is None or draft.text == self.draft.text:
                self._base = self._open_named(settings)
                self._base_text = draft.text
            return self._base

    def _open_named(self, settings: ModelSettings | None) -> Base:
        """Open the model of the text, or else keep the one before it."""
        if settings is not None:
            try:
                return self._open_base(settings)
            except (SpecError, EditError):
                if self._base is not None:
                    return self._base
        # The draft of an earlier server may be unreadable; the opened spec is not.
        return self._base or self._open_base(ModelSettings.read(self.draft.sandbox.opened))

    def _open_base(self, settings: ModelSettings) -> Base:
        """Open a model, where it is another one than now."""
        if self._base is not None and self._base.key == settings.digest():
            return self._base
        folder = self.draft.path.parent
        base = Base.open(settings, folder, self.device, allow_code=self.allow_code)
        # They are edits of another model.
        self._generators.clear()
        self.outcomes.clear()
        self.found.clear()
        return base

    def draw_image(self, name: str, seed: int, number: int) -> bytes | None:
        """Draw item `number` of the stream `seed` by a generator, as a PNG.

        The answer is None where the generator is no longer there.
        """
        # A page names generators of a state that it was given, which has opened the model: a large
        # text that came since need not be read for that.
        base, outcome = self._base or self.base(), self.outcomes.find_drawn(name)
        if name == base.name:
            generator = base.generator
        elif outcome is not None:
            generator = self._apply(base, outcome.built)
        else:
            return None
        return self._draw_latents(generator, base.stream(seed).items([number]))

    def draw_scene(self, number: int, latent: Any) -> bytes:
        """Draw the latent of a place of edit `number`, as a PNG."""
        base = self.base()
        if isinstance(latent, int):
            latents = base.stream(base.settings.latents.seed).items([latent])
        else:
            loaded = self.draft.held().load_alone(number)
            architecture = base.generator.architecture
            numbers = spec_latent(loaded, latent, ("edits", 0), architecture)
            latents = torch.as_tensor(numbers)[None]
        return self._draw_latents(base.generator, latents)

    def draw_mask(self, mask: Mask) -> Image.Image:
        """Draw a mask as grey pixels of the model's images. Raises `MaskError`."""
        base = self.base()
        size = base.generator.architecture.image_size
        legacy = base.compatibility.legacy_masks
        image = mask_image(mask, self.draft.folder, size, legacy=legacy)
        if image.width == size:
            return image
        return image.resize((size, size), Image.Resampling.BOX)

    def shift_mask(self, mask: Mask, right: int, down: int) -> str:
        """Move a mask by some pixels, to a data URL. Raises `MaskError`."""
        image = self.draw_mask(mask)
        moved = Image.new("L", image.size)
        moved.paste(image, (right, down))
        return data_url(moved)

    def draw_composite(self, number: int, changes: dict[str, Any] | None) -> bytes:
        """Draw the output that edit `number` asks for, as a PNG.

        The value is pasted into the layer's output of the target, and the rest of the model, as the
        edits before left it, draws the image. `changes` replaces some fields of the edit.
        """
        draft = self.draft.held()
        loaded = draft.load_alone(number, changes)
        generator = self._apply(self.base(), self._find_built_before(draft, number))
        moment = moment_of(loaded, Resources().cache)
        outputs = expected_outputs(loaded, 0, generator, moment)
        return self._draw(lambda: encode(next(outputs).wanted))

    def draw_heat(self, number: int, latent: int) -> bytes:
        """Draw where in an image the key of an edit's context responds, as a grey PNG.

        The PNG has the size of the key map. White is the median response of the context's own keys,
        or more. C is computed where it is not in the cache.
        """
        draft = self.draft.held()
        loaded, before = draft.load_alone(number), self._find_built_before(draft, number)
        base, layer = self.base(), loaded.spec.edits[0].layer
        if layer not in base.generator.architecture.layers:
            layers = ", ".join(base.generator.architecture.layers)
            raise UsageError(
                f"There is no {layer} in these weights.", f"Choose a layer of {layers}."
            )
        latents = base.stream(base.settings.latents.seed).items([latent])
        made: list[bytes] = []

        def work(progress: ProgressCallback) -> None:
            session = self._open_session(loaded, before, progress)
            with session.kernels():
                made.append(encode_grey(light(session, layer, latents)))

        self._do_now("heat map", draft.content, work)
        return made[0]

    def search(self, number: int, images: int, count: int) -> None:
        """Begin to look for places like the context of an edit, for `found`.

        The images of the context are left out.
        """
        draft = self.draft.snapshot()
        loaded, before = draft.load_alone(number), self._find_built_before(draft, number)
        own = find_own_latents(draft.edit(number))

        def work(progress: ProgressCallback) -> None:
            session = self._open_session(loaded, before, progress)
            with session.kernels():
                generator = generator_of(session)
                places = find_similar_places(session, 0, generator, images, count + len(own))
            others = [place for place in places if place.latent not in own]
            layer = loaded.spec.edits[0].layer
            self.found[draft.present.identities[number]] = Found(layer, tuple(others[:count]))

        self.jobs.start("search", work, cause=draft.content)

    def execute(self) -> None:
        """Begin to build the edits that are on.

        The code and the cache are those of the command line.
        """
        draft = self.draft
        with draft.lock:
            draft.name_masks()
            named = draft.snapshot()
        base = self.base()
        loaded = named.load() if named.has_active_edits() else None
        content = digest_content(named.text, named.file)

        def work(progress: ProgressCallback) -> None:
            built: list[BuiltEdit] = []
            if loaded is not None:
                session = BuildSession.of(loaded, self.device_name, progress)
                built = [session.edit(number) for number in range(len(loaded.spec.edits))]
            # Made here, so that the first image after the work does not wait for it.
            self._apply(base, built)
            after, identities = _name_result(base, built), named.active_identities()
            outcome = Outcome(loaded, tuple(built), after, content, identities)
            # Under the lock, so that no request sees the outcome of one text with another text.
            with draft.lock:
                self.outcomes.keep(outcome)
                draft.executed = content[-1]
                draft.store()

        self.jobs.start("execute", work, cause=named.content)

    def compute_curve(self, number: int) -> None:
        """Begin to compute the curve of an edit: loss against collateral.

        `number` counts the edits that were executed.
        """
        loaded, before, built = self._find_executed(number)
        method = method_of(built.rule.method)
        if not method.has_curve:
            fit = " or ".join(methods_with_a_curve())
            raise UsageError(f"{method.name} has no curve.", f"Choose the solver {fit}.")

        def work(progress: ProgressCallback) -> None:
            session = self._open_session(loaded, before, progress)
            task = f"curve of {built.rule.name}"
            with session.kernels():
                points = measure_curve(
                    session,
                    built.rule,
                    generator_of(session),
                    lambda done, total: progress(task, done, total),
                )
            self._curves[_digest_trade(built)] = points

        self.jobs.start("curve", work, cause=self.draft.content, yielding=True)

    def measure_traces(self, number: int) -> None:
        """Begin to measure the traces of an edit, for `find_traces`.

        `number` counts the edits that were executed.
        """
        loaded, before, built = self._find_executed(number)

        def work(progress: ProgressCallback) -> None:
            session = self._open_session(loaded, before, progress)
            report = partial(progress, f"traces of {built.rule.name}")
            with session.kernels():
                found = measure_unseen(session, number, built, report)
            if found is None:
                message = "The edit has no key, or one that matches everywhere."
                raise UsageError(message, "Choose a smaller context, or a later layer.")
            self._traces[built.patch.metadata["content"]] = found

        self.jobs.start("traces", work, cause=self.draft.content, yielding=True)

    def find_traces(self, built: BuiltEdit) -> UnseenTraces | None:
        """Return the traces of an edit that was executed; None where they were not measured."""
        return self._traces.get(built.patch.metadata["content"])

    def find_curve(self, built: BuiltEdit) -> tuple[ParetoPoint, ...] | None:
        """Return the curve of an edit that was executed; None where it was not computed."""
        return self._curves.get(_digest_trade(built))

    def preserve(self, number: int) -> None:
        """Begin to choose images that edit `number` should leave alone, and write them into it."""
        draft = self.draft.snapshot()
        loaded, before = draft.load_alone(number), self._find_built_before(draft, number)
        own = find_own_latents(draft.edit(number))

        def work(progress: ProgressCallback) -> None:
            session = self._open_session(loaded, before, progress)
            report = partial(progress, "choosing images")
            with session.kernels():
                chosen = choose_preserved(session, 0, generator_of(session), own, report)
            if not chosen:
                raise UsageError(
                    "The key of this edit matches in every image.", "Add context, or paint less."
                )
            fields = fields_that_preserve(draft.edit(number), chosen)
            with self.draft.lock:
                if self.draft.revision != draft.revision:
                    raise UsageError("The spec was changed meanwhile.", "Ask for it again.")
                self.draft.change(put_fields(draft.text, draft.file, number, fields))

        self.jobs.start("preserve", work, cause=draft.content)

    def export(self) -> Path:
        """Begin to build the saved spec, and return the folder of the build.

        The folder is ``build/NAME`` beside the spec.
        """
        builds = self.draft.path.parent / "build"
        out = builds / self.draft.path.stem
        if not out.resolve().is_relative_to(self.draft.sandbox.folder):
            raise UsageError(f"{out} leads out of the project folder.", "Remove the link.")
        loaded = self.draft.load()

        def work(progress: ProgressCallback) -> None:
            ignore = builds / ".gitignore"
            # Patches and weights are outputs: git is not to ask about them.
            if not ignore.exists():
                write(ignore, b"*\n")
            build(loaded, out, device=self.device_name, progress=progress)

        self.jobs.start("export", work, cause=self.draft.content)
        return out

    def _open_session(
        self, loaded: LoadedSpec, before: Sequence[BuiltEdit], progress: ProgressCallback
    ) -> BuildSession:
        """Open a session on the model as some edits left it.

        Its generator is its own: that of the images may be drawing.
        """
        session = BuildSession.of(loaded, self.device_name, progress)
        session.stack = [edit.patch for edit in before]
        session.resolved = [edit.rule for edit in before]
        return session

    def _find_executed(self, number: int) -> tuple[LoadedSpec, Sequence[BuiltEdit], BuiltEdit]:
        """Return the executed spec, its edits before one of a number, and that edit."""
        outcome = self.outcomes.find(self.draft.content)
        if outcome is None or outcome.loaded is None or number >= len(outcome.built):
            raise UsageError("This edit was not executed.", "Execute it first.")
        return outcome.loaded, outcome.built[:number], outcome.built[number]

    def _find_built_before(self, draft: Draft, number: int) -> tuple[BuiltEdit, ...]:
        """Return the executed edits of a draft that come before edit `number` of all."""
        outcome = self.outcomes.find(draft.content)
        if outcome is None:
            return ()
        return outcome.built_before(draft.active_identities(number))

    def _apply(self, base: Base, built: Sequence[BuiltEdit]) -> Generator:
        """Return the base with the patches of some edits."""
        if not built:
            return base.generator
        patches = [edit.patch for edit in built]

        def make() -> Generator:
            return base.make(apply_stack(base.checkpoint, patches))

        return self._generators.get(_name_result(base, built), make)

    def _draw_latents(self, generator: Generator, latents: Tensor) -> bytes:
        return self._draw(lambda: encode(render_images(generator, latents)))

    def _draw(self, draw: Callable[[], T]) -> T:
        """Draw on the thread that draws."""

        def compute() -> T:
            with torch.no_grad(), reproducible_kernels(self.device):
                return draw()

        return self._drawing.submit(compute).result()

    def _do_now(self, kind: str, cause: str, work: Work) -> None:
        """Do a piece of work and wait for it. Raises an `EditError` where it failed."""
        job = self.jobs.start(kind, work, cause=cause)
        job.ended.wait()
        if failure := job.failure:
            raise EditError(failure["message"], failure["hint"])
        if job.cancelled:
            raise UsageError("The work was cancelled.", "Ask for it again.")


def _read_settings(draft: Draft) -> ModelSettings | None:
    """Read the settings that a text gives its model; None where it is wrong in them."""
    try:
        return ModelSettings.read(draft.document_in_sandbox())
    except (SpecError, EditError):
        return None


def _name_result(base: Base, built: Sequence[BuiltEdit]) -> str:
    """Name the generator that some edits give."""
    if not built:
        return base.name
    return base.name_of(built[-1].patch.metadata["result"])


def _digest_trade(built: BuiltEdit) -> str:
    """Digest everything on which the curve of an edit depends.

    That is the rule without its settings, which only choose a point of the curve.
    """
    edit = built.rule
    tensors = {}
    for number, rule in enumerate(edit.rules):
        for name, tensor in rule.tensors().items():
            tensors[f"{number}.{name}"] = tensor.cpu()
    settings = [edit.layers, edit.rank, edit.directions, edit.provenance["parent"]]
    return digest([settings, tensors_digest(tensors)])
