"""Computation about images: pictures, composites, heat maps, searches, traces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.engine.pareto import VARY, ParetoPoint, has_curve, measure_curve
from editspec.engine.resources import Resources
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.explore import SimilarPlace, find_similar_places
from editspec.modalities.image.pictures import data_url
from editspec.modalities.image.traces import UnseenTraces
from editspec.studio.base import Base
from editspec.studio.engine import Engine, name_result
from editspec.studio.modalities.image.drawing import encode, encode_grey, light
from editspec.studio.modalities.image.looking import (
    choose_preserved,
    fields_that_preserve,
    find_own_latents,
    measure_unseen,
)
from editspec.studio.spec_editor import put_fields, require_own
from editspec_compiler.modalities.image.expected import expected_outputs
from editspec_compiler.modalities.image.inputs import spec_latent
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.places import moment_of
from editspec_compiler.modalities.image.schema import Latents, Mask
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import UsageError
from editspec_runtime.executors.devices import reproducible_kernels
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.methods.registry import method_of, methods_with_a_curve
from editspec_runtime.modalities.image.compatibility import ImageCompatibility
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.latents import LatentStream
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


class RecentGenerators:
    """The generators that were used last, by their names."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = RLock()
        self._generators: OrderedDict[str, Generator] = OrderedDict()

    def get(self, name: str, make: Callable[[], Generator]) -> Generator:
        """Return the generator of a name, made where it is not at hand."""
        with self._lock:
            if name not in self._generators:
                self._generators[name] = make()
                while len(self._generators) > self.limit:
                    self._generators.popitem(last=False)
            self._generators.move_to_end(name)
            return self._generators[name]

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._generators.clear()


class Images:
    """The computation of a studio about images of latents.

    Images are drawn on one thread, and long work is done on another. Everything raises `UsageError`
    where the model draws none.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.draft, self.jobs = engine, engine.draft, engine.jobs
        self.found: dict[int, Found] = {}
        self._curves: dict[str, tuple[ParetoPoint, ...]] = {}
        self._traces: dict[str, UnseenTraces] = {}
        self._generators = RecentGenerators(MODELS)
        # One thread: requests for images come together, and two forward passes at a time would
        # only fight for the same cores.
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        engine.build_listeners.append(self._prepare)
        engine.model_listeners.append(self._forget)

    def _prepare(self, base: Base, built: Sequence[BuiltEdit]) -> None:
        """Make the generator of a result, so that its first image does not wait for it."""
        if isinstance(base.model, Generator):
            self._apply(base, built)

    def _forget(self) -> None:
        """Forget what belongs to another model."""
        self._generators.clear()
        self.found.clear()

    def draw_image(self, name: str, seed: int, number: int) -> bytes | None:
        """Draw item `number` of the stream `seed` by a generator, as a PNG.

        The answer is None where the generator is no longer there.
        """
        # A page names generators of a state that it was given, which has opened the model: a large
        # text that came since need not be read for that.
        base, outcome = self.engine.opened, self.engine.outcomes.find_drawn(name)
        if name == base.name:
            generator = generator_in(base)
        elif outcome is not None:
            generator = self._apply(base, outcome.built)
        else:
            return None
        return self._draw_latents(generator, stream_of(base, seed).items([number]))

    def draw_scene(self, number: int, latent: Any) -> bytes:
        """Draw the latent of a place of edit `number`, as a PNG."""
        base = self.engine.base()
        if isinstance(latent, int):
            latents = stream_of(base, latents_of(base).seed).items([latent])
        else:
            loaded = self.draft.held().load_alone(number)
            architecture = generator_in(base).architecture
            numbers = spec_latent(loaded, latent, ("edits", 0), architecture)
            latents = torch.as_tensor(numbers)[None]
        return self._draw_latents(generator_in(base), latents)

    def draw_mask(self, mask: Mask) -> Image.Image:
        """Draw a mask as grey pixels of the model's images. Raises `MaskError`."""
        base = self.engine.base()
        size = generator_in(base).architecture.image_size
        legacy = cast(ImageCompatibility, base.compatibility).legacy_masks
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
        generator = self._apply(self.engine.base(), self.engine.find_built_before(draft, number))
        moment = moment_of(loaded, Resources().cache)
        outputs = expected_outputs(loaded, 0, generator, moment)
        return self._draw(lambda: encode(next(outputs).wanted))

    def draw_heat(self, number: int, latent: int) -> bytes:
        """Draw where in an image the key of an edit's context responds, as a grey PNG.

        The PNG has the size of the key map. White is the median response of the context's own keys,
        or more. C is computed where it is not in the cache.
        """
        draft = self.draft.held()
        loaded, before = draft.load_alone(number), self.engine.find_built_before(draft, number)
        base, layer = self.engine.base(), loaded.spec.edits[0].layer
        if layer not in generator_in(base).architecture.layers:
            layers = ", ".join(generator_in(base).architecture.layers)
            raise UsageError(
                f"There is no {layer} in these weights.", f"Choose a layer of {layers}."
            )
        latents = stream_of(base, latents_of(base).seed).items([latent])
        made: list[bytes] = []

        def work(progress: ProgressCallback) -> None:
            session = self.engine.open_session(loaded, before, progress)
            with session.kernels():
                made.append(encode_grey(light(session, layer, latents)))

        self.engine.do_now("heat map", draft.content, work)
        return made[0]

    def search(self, number: int, images: int, count: int) -> None:
        """Begin to look for places like the context of an edit, for `found`.

        The images of the context are left out.
        """
        draft = self.draft.snapshot()
        loaded, before = draft.load_alone(number), self.engine.find_built_before(draft, number)
        own = find_own_latents(draft.shown_edit(number))

        def work(progress: ProgressCallback) -> None:
            session = self.engine.open_session(loaded, before, progress)
            with session.kernels():
                generator = generator_of(session)
                places = find_similar_places(session, 0, generator, images, count + len(own))
            others = [place for place in places if place.latent not in own]
            layer = loaded.spec.edits[0].layer
            self.found[draft.present.identities[number]] = Found(layer, tuple(others[:count]))

        self.jobs.start("search", work, cause=draft.content)

    def compute_curve(self, number: int) -> None:
        """Begin to compute the curve of an edit: loss against collateral.

        `number` counts the edits that were executed.
        """
        loaded, before, built = self.engine.find_executed(number)
        method = method_of(built.rule.method)
        if not method.has_curve:
            fit = " or ".join(methods_with_a_curve())
            raise UsageError(f"{method.name} has no curve.", f"Choose the solver {fit}.")
        if not has_curve(loaded.spec.edits[number]):
            raise UsageError("Changes that are learned, whole or refined have no curve.", VARY)

        def work(progress: ProgressCallback) -> None:
            session = self.engine.open_session(loaded, before, progress)
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
        loaded, before, built = self.engine.find_executed(number)

        def work(progress: ProgressCallback) -> None:
            session = self.engine.open_session(loaded, before, progress)
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
        require_own(draft.text, draft.file, number)
        loaded, before = draft.load_alone(number), self.engine.find_built_before(draft, number)
        own = find_own_latents(draft.edit(number))

        def work(progress: ProgressCallback) -> None:
            session = self.engine.open_session(loaded, before, progress)
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

    def _apply(self, base: Base, built: Sequence[BuiltEdit]) -> Generator:
        """Return the base with the patches of some edits."""
        if not built:
            return generator_in(base)
        patches = [edit.patch for edit in built]

        def make() -> Generator:
            settings, device = base.settings, self.engine.device
            placed = apply_stack(base.checkpoint, patches).place(settings.precision, device)
            # A network of its own: another generator may be drawing.
            return generator_in(base).separate().with_weights(placed)

        return self._generators.get(name_result(base, built), make)

    def _draw_latents(self, generator: Generator, latents: Tensor) -> bytes:
        return self._draw(lambda: encode(render_images(generator, latents)))

    def _draw(self, draw: Callable[[], T]) -> T:
        """Draw on the thread that draws."""

        def compute() -> T:
            with torch.no_grad(), reproducible_kernels(self.engine.device):
                return draw()

        return self._drawing.submit(compute).result()


def generator_in(base: Base) -> Generator:
    """Return a model as one that draws images of latents. Raises `UsageError` for any other."""
    return require_generator(base.model)


def latents_of(base: Base) -> Latents:
    """Return what the spec of a model says of its latents."""
    return cast(Latents, base.settings.parts["latents"])


def stream_of(base: Base, seed: int) -> LatentStream:
    """Return a stream of latents of a model."""
    size = generator_in(base).architecture.latent_size
    return LatentStream(seed, size, latents_of(base).sampler)


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
