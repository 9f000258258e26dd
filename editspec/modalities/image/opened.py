"""A generator that is open in Python, and pictures that a notebook shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.opened import OpenedModel
from editspec.modalities.image.pictures import (
    arrange,
    before_and_after,
    enlarge,
    png_bytes,
    to_image,
)
from editspec_runtime.executors.devices import reproducible_kernels
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.streams import REPORTS


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
        """All pictures on one sheet, small ones enlarged."""
        return arrange([enlarge(picture) for picture in self.pictures])

    def _repr_png_(self) -> bytes:
        """The sheet as a notebook shows it."""
        return png_bytes(self.sheet())


@dataclass(frozen=True, repr=False)
class OpenedGenerator(OpenedModel):
    """A generator of images that is open.

    Attributes
    ----------
    sampler
        The sampler of its latent streams. All else is as in `OpenedModel`.
    """

    sampler: str = "keyed"

    @property
    def generator(self) -> Generator:
        """The model as the patches leave it."""
        generator: Generator = self.model
        return generator

    @torch.no_grad()
    def outputs(self, latents: Sequence[int] | Tensor = range(8), seed: int = REPORTS) -> Tensor:
        """The images of latents as numbers, [n, 3, size, size], in about -1..1.

        Parameters
        ----------
        latents
            Vectors [n, latent_size], or numbers of a latent stream.
        seed
            The seed of that stream.
        """
        if not isinstance(latents, Tensor):
            stream = LatentStream(seed, self.generator.architecture.latent_size, self.sampler)
            latents = stream.items(latents)
        device = next(iter(self.generator.weights.values())).device
        with reproducible_kernels(device):
            return render_images(self.generator, latents)

    def images(self, latents: Sequence[int] | Tensor = range(8), seed: int = REPORTS) -> Images:
        """The images of latents as pictures; the arguments are those of `outputs`."""
        outputs = self.outputs(latents, seed).float().cpu()
        return Images(tuple(to_image(output) for output in outputs))

    def compare(
        self, latents: Sequence[int] | Tensor = range(8), seed: int = REPORTS
    ) -> Image.Image:
        """The images of latents before and after the patches, on one sheet.

        The arguments are those of `outputs`.
        """
        device = next(iter(self.generator.weights.values())).device
        weights = self.checkpoint.place(self.precision, device)
        base = replace(self, model=self.model.with_weights(weights), patches=())
        before, after = (each.outputs(latents, seed).float().cpu() for each in (base, self))
        return before_and_after(before, after)

    def _repr_png_(self) -> bytes:
        """The first images of the model, before and after its patches, as a notebook shows them."""
        if self.patches:
            return png_bytes(self.compare())
        return self.images()._repr_png_()
