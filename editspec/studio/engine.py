"""Computation behind a draft: images, composites, heat maps, searches and builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from editspec.commands.build import build
from editspec.engine.built import BuiltEdit
from editspec.engine.intervals import Estimates
from editspec.engine.pareto import ParetoPoint, measure_curve
from editspec.engine.resources import Resources, is_code_allowed
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import context_direction, generator_of
from editspec.modalities.image.explore import SimilarPlace, find_similar_places
from editspec.modalities.image.pictures import data_url, png_bytes, to_image
from editspec.modalities.image.traces import find_unseen_traces
from editspec.studio.base import Base, ModelSettings, RecentGenerators
from editspec.studio.draft import Draft
from editspec.studio.jobs import Jobs, Work
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.modalities.image.context import find_context_keys
from editspec_compiler.modalities.image.expected import expected_outputs
from editspec_compiler.modalities.image.inputs import spec_latent
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.places import moment_of
from editspec_compiler.modalities.image.schema import Mask
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.methods.registry import method_of, methods_with_a_curve
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.retrieval import respond_on_map
from editspec_runtime.patches.patch import apply_stack

MODELS = 6
"""The number of edited generators that are kept in memory."""

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """The result of Execute.

    Attributes
    ----------
    loaded
        The spec that was executed; None where no edit was on.
    built
        Its edits.
    after
        The name of the generator that they give.
    """

    loaded: LoadedSpec | None
    built: tuple[BuiltEdit, ...]
    after: str


class Engine:
    """The computation of a studio.

    Images are drawn on one thread, and long work is done on another.
    """

    def __init__(self, draft: Draft, jobs: Jobs, device: str) -> None:
        self.draft, self.jobs, self.device_name = draft, jobs, device
        self.allow_code = is_code_allowed()
        self.device = pick_device(device)
        self.outcome: Outcome | None = None
        self.found: dict[str, list[SimilarPlace]] = {}
        self._curves: dict[str, tuple[ParetoPoint, ...]] = {}
        self._traces: dict[str, Estimates] = {}
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
        self.outcome = None
        return base

    def draw_image(self, name: str, seed: int, number: int) -> bytes | None:
        """Draw item `number` of the stream `seed` by a generator, as a PNG.

        The answer is None where the generator is no longer there.
        """
        # A page names generators of a state that it was given, which has opened the model: a large
        # text that came since need not be read for that.
        base, outcome = self._base or self.base(), self.outcome
        if name == base.name:
            generator = base.generator
        elif outcome is not None and name == outcome.after:
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
            loaded = self.draft.load_alone(number)
            architecture = base.generator.architecture
            numbers = spec_latent(loaded, latent, ("edits", 0), architecture)
            latents = torch.as_tensor(numbers)[None]
        return self._draw_latents(base.generator, latents)

    def draw_mask(self, mask: Mask) -> Image.Image:
        """Draw a mask as grey pixels of the model's images. Raises `MaskError`."""
        base = self.base()
        size = base.generator.architecture.image_size
        legacy = base.compatibility.legacy_masks
        image = mask_image(mask, self.draft.path.parent, size, legacy=legacy)
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
        loaded = self.draft.load_alone(number, changes)
        generator = self._apply(self.base(), self._find_built_before(number))
        moment = moment_of(loaded, Resources().cache)
        outputs = expected_outputs(loaded, 0, generator, moment)
        return self._draw(lambda: _encode(next(outputs).wanted))

    def draw_heat(self, number: int, latent: int) -> bytes:
        """Draw where in an image the key of an edit's context responds, as a grey PNG.

        The PNG has the size of the key map. White is the median response of the context's own keys,
        or more. C is computed where it is not in the cache.
        """
        loaded, before = self.draft.load_alone(number), self._find_built_before(number)
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
                made.append(_encode_grey(_light(session, layer, latents)))

        self._do_now("heat map", work)
        return made[0]

    def search(self, number: int, images: int, count: int) -> None:
        """Begin to look for places like the context of an edit, for `found`."""
        loaded, before = self.draft.load_alone(number), self._find_built_before(number)

        def work(progress: ProgressCallback) -> None:
            session = self._open_session(loaded, before, progress)
            with session.kernels():
                places = find_similar_places(session, 0, generator_of(session), images, count)
            self.found[loaded.spec.edits[0].name] = places

        self.jobs.start("search", work)

    def execute(self) -> None:
        """Begin to build the edits that are on.

        The code and the cache are those of the command line.
        """
        draft = self.draft
        with draft.lock:
            draft.name_masks()
            named = draft.snapshot()
        base, text = self.base(), named.text
        loaded = named.load() if named.has_active_edits() else None

        def work(progress: ProgressCallback) -> None:
            built: list[BuiltEdit] = []
            if loaded is not None:
                session = BuildSession.of(loaded, self.device_name, progress)
                built = [session.edit(number) for number in range(len(loaded.spec.edits))]
            # Made here, so that the first image after the work does not wait for it.
            self._apply(base, built)
            # Under the lock, so that no request sees the outcome of one text with another text.
            with draft.lock:
                self.outcome = Outcome(loaded, tuple(built), _name_result(base, built))
                draft.executed = draft.text == text
                draft.store()

        self.jobs.start("execute", work)

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

        self.jobs.start("curve", work, yielding=True)

    def measure_traces(self, number: int) -> None:
        """Begin to measure the traces of an edit, for `find_traces`.

        `number` counts the edits that were executed.
        """
        loaded, before, built = self._find_executed(number)

        def work(progress: ProgressCallback) -> None:
            session = self._open_session(loaded, before, progress)
            task = f"traces of {built.rule.name}"
            with session.kernels():
                first = generator_of(session)
                session.stack.append(built.patch)
                second = generator_of(session)
                found = find_unseen_traces(
                    session, number, first, second, lambda done, total: progress(task, done, total)
                )
            if found is None:
                message = "The edit has no key, or one that matches everywhere."
                raise UsageError(message, "Choose a smaller context, or a later layer.")
            self._traces[built.patch.metadata["content"]] = found.estimates

        self.jobs.start("traces", work, yielding=True)

    def find_traces(self, built: BuiltEdit) -> Estimates | None:
        """Return the traces of an edit that was executed; None where they were not measured."""
        return self._traces.get(built.patch.metadata["content"])

    def find_curve(self, built: BuiltEdit) -> tuple[ParetoPoint, ...] | None:
        """Return the curve of an edit that was executed; None where it was not computed."""
        return self._curves.get(_digest_trade(built))

    def export(self) -> Path:
        """Begin to build the saved spec, and return the folder of the build.

        The folder is ``build/NAME`` beside the spec.
        """
        out = self.draft.path.parent / "build" / self.draft.path.stem
        if not out.resolve().is_relative_to(self.draft.sandbox.folder):
            raise UsageError(f"{out} leads out of the project folder.", "Remove the link.")
        loaded = self.draft.load()

        def work(progress: ProgressCallback) -> None:
            build(loaded, out, device=self.device_name, progress=progress)

        self.jobs.start("export", work)
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
        outcome = self.outcome
        if outcome is None or outcome.loaded is None or number >= len(outcome.built):
            raise UsageError("This edit was not executed.", "Execute it first.")
        return outcome.loaded, outcome.built[:number], outcome.built[number]

    def _find_built_before(self, number: int) -> list[BuiltEdit]:
        """List the executed edits that come before edit `number` of all.

        The first edit that is on and was not executed ends the list.
        """
        outcome, names = self.outcome, self.draft.active_names(number)
        if outcome is None:
            return []
        found = []
        # The text may have more or fewer edits by now than when it was executed.
        for edit, name in zip(outcome.built, names, strict=False):
            if edit.rule.name != name:
                break
            found.append(edit)
        return found

    def _apply(self, base: Base, built: Sequence[BuiltEdit]) -> Generator:
        """Return the base with the patches of some edits."""
        if not built:
            return base.generator
        patches = [edit.patch for edit in built]

        def make() -> Generator:
            return base.make(apply_stack(base.checkpoint, patches))

        return self._generators.get(_name_result(base, built), make)

    def _draw_latents(self, generator: Generator, latents: Tensor) -> bytes:
        return self._draw(lambda: _encode(render_images(generator, latents)))

    def _draw(self, draw: Callable[[], T]) -> T:
        """Draw on the thread that draws."""

        def compute() -> T:
            with torch.no_grad(), reproducible_kernels(self.device):
                return draw()

        return self._drawing.submit(compute).result()

    def _do_now(self, kind: str, work: Work) -> None:
        """Do a piece of work and wait for it. Raises an `EditError` where it failed."""
        job = self.jobs.start(kind, work)
        job.ended.wait()
        if failure := job.failure:
            raise EditError(failure["message"], failure["hint"])


@torch.no_grad()
def _light(session: BuildSession, layer: str, latents: Tensor) -> Tensor:
    """Measure where an image has the key of a context.

    Takes latents [1, latent_size] and gives a map [height, width] in 0..1; 1 is the median
    response of the context's own keys, or more.
    """
    generator = generator_of(session)
    direction = context_direction(session, 0, generator)
    keys, _ = find_context_keys(session.loaded, 0, generator)
    own = float((keys @ direction).median())
    response = respond_on_map(generator.trace(layer, latents.to(keys)).key, direction)[0]
    # The median may be 0 or negative; a division by it would turn the map into NaN or upside down.
    smallest = torch.finfo(keys.dtype).tiny
    return (response / max(own, smallest)).clamp(0, 1)


def _encode(images: Tensor) -> bytes:
    """Encode the first of some images [n, 3, height, width] in -1..1 as a PNG."""
    return png_bytes(to_image(images[0].float().cpu()))


def _encode_grey(light: Tensor) -> bytes:
    """Encode a map [height, width] in 0..1 as a grey PNG."""
    levels = (light * 255).round().to(torch.uint8).cpu()
    return png_bytes(Image.fromarray(levels.numpy()))


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
