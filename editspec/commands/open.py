"""``editspec.open``: a model in Python, with patches on it, and pictures that a notebook shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.opening import known_architecture
from editspec.engine.resources import locate_weights
from editspec.engine.session import BuildSession
from editspec.engine.stacks import require_belonging, require_named
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.pictures import arrange, png_bytes, to_image
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.io.weights import Weights
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.streams import REPORTS
from editspec_runtime.patches.patch import Patch, apply_stack, read_patch

SPECS = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Images(Sequence[Image.Image]):
    """Pictures as PIL images; a notebook shows them side by side."""

    pictures: tuple[Image.Image, ...]

    def __getitem__(self, index: int) -> Image.Image:  # type: ignore[override]
        return self.pictures[index]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Image.Image]:
        return iter(self.pictures)

    def sheet(self) -> Image.Image:
        """All pictures on one sheet."""
        return arrange(self.pictures)

    def _repr_png_(self) -> bytes:
        """The sheet as a notebook shows it."""
        return png_bytes(self.sheet())


@dataclass(frozen=True)
class OpenedModel:
    """A model that is open: its base, and the patches on it.

    Attributes
    ----------
    model
        The model as the patches leave it, on its device and in its precision.
    checkpoint, place
        The unedited weights, and their file.
    patches
        The stack, in order.
    precision, sampler
        Of the model, and of its latent streams.
    """

    model: Generator
    checkpoint: Weights
    place: Path
    patches: tuple[Patch, ...] = ()
    precision: str = "float32"
    sampler: str = "keyed"

    @cached_property
    def weights(self) -> Weights:
        """The edited weights by their names in the checkpoint, in its own precision."""
        return apply_stack(self.checkpoint, self.patches)

    @property
    def digest(self) -> str:
        """The digest of the edited weights."""
        return self.weights.digest()

    def with_patches(self, *patches: Path | str | Patch) -> OpenedModel:
        """The model with these patches on top of those that it has.

        Raises
        ------
        PatchError
            A patch is damaged, or was solved on other weights.
        """
        added = [each if isinstance(each, Patch) else read_patch(Path(each)) for each in patches]
        stack = (*self.patches, *added)
        require_belonging(self.place, self.checkpoint.metadata, self.checkpoint.digest(), stack)
        weights = apply_stack(self.checkpoint, stack)
        require_named(weights.digest(), stack)
        device = next(iter(self.model.weights.values())).device
        model = self.model.with_weights(weights.place(self.precision, device))
        return replace(self, model=model, patches=stack)

    @torch.no_grad()
    def outputs(self, latents: Sequence[int] | Tensor = range(8), seed: int = REPORTS) -> Tensor:
        """The images of latents as numbers, [n, 3, size, size], in about -1..1.

        Parameters
        ----------
        latents
            Vectors [n, latent_size], or numbers of a latent stream.
        seed
            Names that stream.
        """
        if not isinstance(latents, Tensor):
            stream = LatentStream(seed, self.model.architecture.latent_size, self.sampler)
            latents = stream.items(latents)
        device = next(iter(self.model.weights.values())).device
        with reproducible_kernels(device):
            return render_images(self.model, latents)

    def images(self, latents: Sequence[int] | Tensor = range(8), seed: int = REPORTS) -> Images:
        """The images of latents as pictures. Takes the same as `outputs`."""
        outputs = self.outputs(latents, seed).float().cpu()
        return Images(tuple(to_image(output) for output in outputs))

    def _repr_png_(self) -> bytes:
        """The first images of the model, as a notebook shows them."""
        return self.images()._repr_png_()


def open(
    spec: Path | str | LoadedSpec,
    *,
    family: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> OpenedModel:
    """Open the unedited model of a spec, or that of a file of weights.

    Parameters
    ----------
    spec
        A spec; or weights: ``builtin:skyline``, or the path of a checkpoint.
    family
        What weights are. Default: found by their names.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.

    Raises
    ------
    SpecError
        The spec is wrong.
    EditError
        The weights are.
    """
    if isinstance(spec, LoadedSpec) or Path(spec).suffix in SPECS:
        session = BuildSession.of(spec, device, progress)
        said = image_spec(session.loaded.spec)
        return OpenedModel(
            generator_of(session),
            session.checkpoint,
            session.loaded.weights,
            precision=said.precision,
            sampler=said.latents.sampler,
        )
    place = locate_weights(
        str(spec), Path(), progress=lambda done, total: progress("fetching", done, total)
    )
    checkpoint = read_weights(place)
    found = known_architecture(checkpoint, place, family).family
    model = make_model(found, checkpoint, device=pick_device(device))
    return OpenedModel(model, checkpoint, place)
