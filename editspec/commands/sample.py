"""``editspec sample``: the numbered images of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from editspec.engine.named_model import is_spec, spec_of_model
from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec.modalities.image.gallery import draw_gallery
from editspec.modalities.image.pictures import picture_bytes, png_bytes, require_free_picture
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.io.files import write

MOST = 1024
"""The most images on a sheet."""


@dataclass(frozen=True)
class SampleResult(CommandResult):
    """A sheet of numbered images.

    Attributes
    ----------
    sheet
        The path of the picture.
    first, count
        The number of the first latent, and how many follow one another.
    seed, sampler
        The latent stream that the numbers are of.
    image
        The picture.
    """

    sheet: Path
    first: int
    count: int
    seed: int
    sampler: str
    image: Image.Image = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Where the sheet is, and which latents it shows."""
        names = ("first", "count", "seed", "sampler")
        return {"sheet": str(self.sheet), **{name: getattr(self, name) for name in names}}

    def to_text(self) -> str:
        """The sheet, and which latents it shows."""
        last = self.first + self.count - 1
        return f"{self.sheet}: latents {self.first} to {last} of seed {self.seed}"

    def _repr_png_(self) -> bytes:
        """The picture as a notebook shows it."""
        return png_bytes(self.image)


def sample(
    model: Path | str | LoadedSpec,
    out: Path | str,
    *,
    first: int = 0,
    count: int = 64,
    seed: int | None = None,
    family: str | None = None,
    module: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> SampleResult:
    """Draw images of a model, unedited, each with the number of its latent.

    These numbers are what a spec writes as ``latent: N``.

    Parameters
    ----------
    model
        A spec, with edits or without; or weights: ``builtin:skyline``, or the path of a checkpoint.
    out
        A picture for the sheet: .png, .jpg or .webp.
    first, count
        The number of the first latent, and how many follow one another, at most `MOST`.
    seed
        The latent stream. Default: that of the spec; of weights, that of a spec that names none.
    family, module
        Of weights: their family (default: the first that fits), and ``package.module:factory`` of a
        torch network.

    Raises
    ------
    UsageError
        There are too many images, or a spec is given with a family or a module.
    SpecError
        The spec is wrong.
    EditError
        The weights are wrong, or a foreign file lies at `out`.
    """
    out = Path(out)
    require_free_picture(out)
    if not 1 <= count <= MOST:
        raise UsageError(
            f"A sheet holds 1 to {MOST} images, and {count} are asked for.",
            "Draw several sheets, each with a --first of its own.",
        )
    named = is_spec(model)
    if named and (family or module):
        raise UsageError(
            "A spec names its family and its module itself.", "Leave out --family and --module."
        )
    spec = model if named else spec_of_model(str(model), family=family, module=module)
    session = BuildSession.of(spec, device, progress, needs_edits=False)
    latents = image_spec(session.loaded.spec).latents
    seed = latents.seed if seed is None else seed
    picture = draw_gallery(session, range(first, first + count), seed)
    write(out, picture_bytes(picture, out))
    return SampleResult(out, first, count, seed, latents.sampler, picture)
