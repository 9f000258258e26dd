"""The model of a session: its images, what an edit pastes, where its key responds, and the build of
all edits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from editspec.commands.build import build
from editspec.engine.pareto import problem_of
from editspec.engine.session import BuildSession, BuiltEdit, network_of
from editspec.modalities.image.explore import similar_places
from editspec.modalities.image.pictures import png_bytes, to_image
from editspec.studio.draft import Draft, data_url
from editspec.studio.jobs import Jobs
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.document import Document
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.resolve import asked, context_of
from editspec_compiler.references import unfit_class
from editspec_compiler.schema import Latents, Mask, Model, Statistics, check, fitting
from editspec_runtime.core.compatibility import Compatibility, conventions
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError, WeightsError
from editspec_runtime.families.checkpoints import Checkpoint, read_checkpoint, weights_path
from editspec_runtime.families.open import make_generator, pick_device
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.maths.moments import second_moment
from editspec_runtime.methods.least_squares import Point, curve
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.patches.patch import apply_stack

FRESH = 3
"""The stream of images that no spec can name: those on which a rule is judged."""

MODELS = 6
"""Edited generators that are kept at hand."""

T = TypeVar("T")


@dataclass(frozen=True)
class Base:
    """The unedited model of a text.

    Attributes
    ----------
    key
        The digest of all that the text says of how it draws.
    name
        Of its generator among those that draw.
    said
        What the text says of it.
    checkpoint, weights
        Its tensors, and their digest.
    generator, make
        The generator, and what makes one of other tensors.
    latents, statistics, own
        The streams, and how the numbers are made.
    """

    key: str
    name: str
    said: Model
    checkpoint: Checkpoint
    weights: str
    generator: Generator
    make: Callable[[Mapping[str, Tensor]], Generator]
    latents: Latents
    statistics: Statistics
    own: Compatibility

    def stream(self, seed: int) -> LatentStream:
        """A stream of latents of this model."""
        return LatentStream(seed, self.generator.architecture.latent_size, self.latents.sampler)


@dataclass(frozen=True)
class Outcome:
    """What Execute made of a spec (None where no edit was on): its edits, and the name of the
    generator they give.
    """

    loaded: LoadedSpec | None
    built: tuple[BuiltEdit, ...]
    after: str


class Engine:
    """All that computes. Images are drawn on one thread, long work is done on another."""

    def __init__(self, draft: Draft, jobs: Jobs, device: str) -> None:
        self.draft, self.jobs, self.device_name = draft, jobs, device
        self.device = pick_device(device)
        self.outcome: Outcome | None = None
        self.found: dict[str, list[dict[str, Any]]] = {}
        self._curves: dict[str, list[Point]] = {}
        self._generators: OrderedDict[str, Generator] = OrderedDict()
        self._base: Base | None = None
        self._seen = ""
        self._opening = RLock()
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="drawing")

    def base(self) -> Base:
        """The model that the text names; where it cannot be read just now, or is not there, the one
        before.

        Raises `SpecError` and `EditError` where there is none before.
        """
        with self._opening:
            text = self.draft.text
            if self._base is None or text != self._seen:
                try:
                    self._base = self._of(self.draft.document())
                except (SpecError, EditError):
                    # A draft may be left unreadable; what was opened is not.
                    self._base = self._base or self._of(self.draft.bounds.opened)
                self._seen = text
            return self._base

    def _of(self, document: Document) -> Base:
        if outside := self.draft.bounds.problems(document):
            raise SpecError(document.file, outside, document.text)
        data = document.data
        model = fitting(Model, data.get("model"))
        latents, statistics = (
            fitting(Latents, data.get("latents", {})),
            fitting(Statistics, data.get("statistics", {})),
        )
        precision, compatibility = data.get("precision", "float32"), data.get("compatibility")
        if (
            model is None
            or latents is None
            or statistics is None
            or precision not in ("float32", "float64")
            or compatibility not in (None, "rewriting-2020")
        ):
            raise SpecError(document.file, check(document)[1], document.text)
        said = [part.model_dump(mode="json") for part in (model, latents, statistics)]
        key = digest([*said, precision, compatibility])
        if self._base is None or self._base.key != key:
            own = conventions(compatibility)
            base = self._opened(key, model, precision, own, latents, statistics)
            self._generators.clear()
            self.outcome = None
            return base
        return self._base

    def _opened(
        self,
        key: str,
        model: Model,
        precision: str,
        own: Compatibility,
        latents: Latents,
        statistics: Statistics,
    ) -> Base:
        folder = self.draft.path.parent
        path = weights_path(model.weights, folder, pin=model.digest)
        source = network_of(model, path, folder)
        checkpoint = read_checkpoint(path)

        def make(tensors: Mapping[str, Tensor]) -> Generator:
            # A network of its own: another generator may be drawing.
            own_source = source and replace(source, module=deepcopy(source.module))
            return make_generator(
                model.family,
                tensors,
                precision=precision,
                device=self.device,
                truncation=model.truncation,
                class_label=model.class_label,
                source=own_source,
                conventions=own,
            )

        weights, generator = checkpoint.digest(), make(checkpoint.generator)
        if unfit := unfit_class(model.class_label, generator.architecture):
            raise WeightsError(*unfit)
        return Base(
            key,
            _name(key, weights),
            model,
            checkpoint,
            weights,
            generator,
            make,
            latents,
            statistics,
            own,
        )

    def image(self, name: str, seed: int, number: int) -> bytes | None:
        """Item `number` of the stream `seed` as a PNG, drawn by a generator; None where it is no
        longer there.
        """
        base, outcome = self.base(), self.outcome
        if name == base.name:
            generator = base.generator
        elif outcome is not None and name == outcome.after:
            generator = self._edited(base, outcome.built)[1]
        else:
            return None
        return self._draw(lambda: _png(_image(generator, base.stream(seed).items([number]))))

    def scene(self, latent: Any) -> bytes:
        """The image of a latent that is no number of the stream, as a PNG."""
        base = self.base()
        return self._draw(lambda: _png(_image(base.generator, torch.as_tensor(latent)[None])))

    def pixels(self, mask: Mask) -> Image.Image:
        """A mask as grey pixels of the model's images. Raises `MaskError`."""
        base = self.base()
        size = base.generator.architecture.image_size
        legacy = base.own.legacy_masks
        image = mask_image(mask, self.draft.path.parent, size, legacy=legacy)
        return image if image.width == size else image.resize((size, size), Image.Resampling.BOX)

    def shifted(self, mask: Mask, right: int, down: int) -> str:
        """A mask moved by some pixels, as a data URL. Raises `MaskError`."""
        image = self.pixels(mask)
        moved = Image.new("L", image.size)
        moved.paste(image, (right, down))
        return data_url(moved)

    def composite(self, number: int, changes: dict[str, Any] | None) -> bytes:
        """What edit `number` asks for, as a PNG: its target with the value pasted, drawn by the
        rest of the model.
        """
        loaded = self.draft.load_alone(number, changes)
        generator = self.before(number)
        return self._draw(lambda: _png(next(asked(loaded, 0, generator)).wanted))

    def before(self, number: int) -> Generator:
        """The model as the edits before `number` left it, as far as they were executed."""
        return self._edited(self.base(), self._built_before(number))[1]

    def heat(self, number: int, latent: int) -> bytes:
        """Where in an image the key of an edit's context responds, as a grey PNG of the key map's
        size.

        White is the median response of the context's own keys (or more). Computes C where it is not
        in the cache.
        """
        loaded, before = self.draft.load_alone(number), self._built_before(number)
        base, layer = self.base(), loaded.spec.edits[0].layer
        if layer not in base.generator.architecture.layers:
            raise UsageError(f"There is no {layer} in these weights.")
        made: list[bytes] = []

        def work(progress: ProgressCallback) -> None:
            # A generator of its own: that of the images may be drawing.
            session = BuildSession.of(loaded, self.device_name, progress)
            session.stack = [edit.patch for edit in before]
            generator = session.generator()
            matrix = second_moment(
                generator,
                layer,
                base.stream(base.statistics.seed),
                base.statistics.samples,
                base.own,
                default_cache(),
                lambda done, total: progress(f"statistics of {layer}", done, total),
            ).matrix
            keys, weights = context_of(loaded, 0, generator)
            direction = mean_direction(matrix, keys.cpu(), weights.cpu())[0].to(keys)
            own = float((keys @ direction).median())
            with torch.no_grad():
                key = generator.prefix(
                    layer, base.stream(base.latents.seed).items([latent]).to(keys)
                ).key[0]
            response = torch.einsum("ihw,i->hw", key, direction) / max(
                own, torch.finfo(keys.dtype).tiny
            )
            made.append(_grey((response.clamp(0, 1) * 255).round().to(torch.uint8).cpu()))

        self._now("heat map", work)
        return made[0]

    def search(self, number: int, images: int, count: int) -> None:
        """Begin to look for places like the context of an edit; what is found lies in `found`."""
        loaded, before = self.draft.load_alone(number), self._built_before(number)

        def work(progress: ProgressCallback) -> None:
            session = BuildSession.of(loaded, self.device_name, progress)
            session.stack = [edit.patch for edit in before]
            self.found[loaded.spec.edits[0].name] = similar_places(
                session, 0, session.generator(), images, count
            )

        self.jobs.start("search", work)

    def execute(self) -> None:
        """Begin to build the edits that are on, by the code and the cache of the command line."""
        draft = self.draft
        draft.name_masks()
        base, text = self.base(), draft.text
        loaded = draft.load() if draft.has_active_edits() else None

        def work(progress: ProgressCallback) -> None:
            built: list[BuiltEdit] = []
            if loaded is not None:
                session = BuildSession.of(loaded, self.device_name, progress)
                built = [session.edit(number) for number in range(len(loaded.spec.edits))]
            with draft.lock:
                self.outcome = Outcome(loaded, tuple(built), self._edited(base, built)[0])
                draft.executed = draft.text == text
                draft.keep()

        self.jobs.start("execute", work)

    def curve(self, number: int) -> None:
        """Begin to compute the trade of loss against collateral of edit `number` of those that were
        executed.
        """
        outcome = self.outcome
        if outcome is None or outcome.loaded is None or number >= len(outcome.built):
            raise UsageError("This edit was not executed.", "Execute it first.")
        loaded, built = outcome.loaded, outcome.built[number]
        if built.rule.solver.method != "least-squares":
            raise UsageError(
                f"{built.rule.solver.method} has no curve.", "Choose the solver least-squares."
            )

        def work(progress: ProgressCallback) -> None:
            session = BuildSession.of(loaded, self.device_name, progress)
            session.stack = [edit.patch for edit in outcome.built[:number]]
            generator, rule = session.generator(), built.rule
            problem = problem_of(session, rule, generator)
            told = f"curve of {rule.edit}"
            self._curves[_trade(built)] = curve(
                problem, lambda done, total: progress(told, done, total)
            )

        self.jobs.start("curve", work, yielding=True)

    def known_curve(self, built: BuiltEdit) -> list[Point] | None:
        """The curve of an edit that was executed; None where it was not computed."""
        return self._curves.get(_trade(built))

    def export(self) -> Path:
        """Begin to build the saved spec into ``build/NAME`` beside it, as ``editspec build`` does;
        where that is.
        """
        out = self.draft.path.parent / "build" / self.draft.path.stem
        if not out.resolve().is_relative_to(self.draft.bounds.folder):
            raise UsageError(f"{out} leads out of the project folder.", "Remove that link.")
        loaded = self.draft.load()

        def work(progress: ProgressCallback) -> None:
            build(loaded, out, device=self.device_name, progress=progress)

        self.jobs.start("export", work)
        return out

    def _built_before(self, number: int) -> list[BuiltEdit]:
        """What was executed of the edits that are on and come before `number` of all, up to the
        first that was not.
        """
        outcome, names = self.outcome, self.draft.active_names(number)
        if outcome is None:
            return []
        found = []
        for edit, name in zip(outcome.built, names, strict=False):
            if edit.rule.edit != name:
                break
            found.append(edit)
        return found

    def _edited(self, base: Base, built: Sequence[BuiltEdit]) -> tuple[str, Generator]:
        """The base with the patches of some edits, and its name; made where it is not at hand."""
        if not built:
            return base.name, base.generator
        result = built[-1].patch.metadata["result"]
        name = _name(base.key, result)
        with self._opening:
            if name not in self._generators:
                weights = apply_stack(base.checkpoint.generator, [edit.patch for edit in built])
                self._generators[name] = base.make(weights)
                while len(self._generators) > MODELS:
                    self._generators.popitem(last=False)
            self._generators.move_to_end(name)
            return name, self._generators[name]

    def _draw(self, draw: Callable[[], T]) -> T:
        return self._drawing.submit(torch.no_grad()(draw)).result()

    def _now(self, kind: str, work: Callable[[ProgressCallback], None]) -> None:
        """Do a piece of work and wait for it. Raises what went wrong with it."""
        job = self.jobs.start(kind, work)
        job.ended.wait()
        if failure := job.failure:
            raise EditError(failure["message"], failure["hint"])


def _image(generator: Generator, latents: Tensor) -> Tensor:
    return generator.images(generator.fitted(latents))


def _png(images: Tensor) -> bytes:
    return png_bytes(to_image(images[0].float().cpu()))


def _grey(levels: Tensor) -> bytes:
    return png_bytes(Image.fromarray(levels.numpy()))


def _name(key: str, weights: str) -> str:
    """The name of a generator: other weights or other settings have another, so that its images
    never change.
    """
    return digest([key, weights])[:16]


def _trade(built: BuiltEdit) -> str:
    """What the curve of an edit depends on: its rule, but for the point of the curve that was
    chosen.
    """
    rule = built.rule
    tensors = {
        "key": rule.key,
        "value": rule.value,
        "context": rule.context_keys,
        "weights": rule.context_weights,
    }
    said = [rule.layer, rule.rank, rule.directions, rule.provenance["parent"]]
    return digest([said, tensors_digest({name: tensor.cpu() for name, tensor in tensors.items()})])
