"""``editspec render``: pictures of all that edits do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from editspec.engine.model_session import on_device
from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import context_direction, generator_of
from editspec.modalities.image.pictures import (
    before_and_after,
    png_bytes,
    require_free_picture,
    spotlight,
    stack_pictures,
)
from editspec.modalities.image.preview import render_stream
from editspec.views.key_value import draw_alone, find_matches
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.expected import find_source_values
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.io.files import write
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import REPORTS


@dataclass(frozen=True)
class RenderResult(CommandResult):
    """A picture, and where it lies."""

    out: Path
    picture: Image.Image

    def to_dict(self) -> dict[str, str]:
        """Where the picture lies."""
        return {"out": str(self.out)}

    def to_text(self) -> str:
        """Where the picture lies."""
        return str(self.out)

    def _repr_png_(self) -> bytes:
        """The picture as a notebook shows it."""
        return png_bytes(self.picture)


def render(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    value: bool = False,
    key: bool = False,
    count: int = 16,
    seed: int = REPORTS,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> RenderResult:
    """Draw `count` images of the latent stream `seed` before and after the edits of a spec.

    Parameters
    ----------
    spec
        Whose edits are drawn.
    out
        A new PNG, or one that editspec made.
    value
        Instead, for every edit the images that its values come from, and what each value draws
        alone (paper Fig. 2d).
    key
        Instead, for every edit the `count` images of the stream in which the key of its context
        matches best, lit where it does (Fig. 2c).

    Raises
    ------
    UsageError
        Both `value` and `key` are asked for.
    SpecError, EditError
        As `build` does.
    """
    if value and key:
        raise UsageError("--value and --key exclude each other.", "give --value or --key, not both")
    out = Path(out)
    require_free_picture(out)
    session = BuildSession.of(spec, device, progress)
    if value:
        picture = _draw_values(session)
    elif key:
        picture = _draw_keys(session, count, seed)
    else:
        picture = draw_session(session, count, seed)
    write(out, png_bytes(picture))
    return RenderResult(out, picture)


@on_device
def draw_session(session: BuildSession, count: int, seed: int = REPORTS) -> Image.Image:
    """Draw images before and after all edits, in a session in which nothing was built yet."""
    before = generator_of(session)
    for number in range(len(session.loaded.spec.edits)):
        session.edit(number)
    sampler = image_spec(session.loaded.spec).latents.sampler
    first = render_stream(before, count, seed, sampler)
    return before_and_after(first, render_stream(generator_of(session), count, seed, sampler))


@on_device
def _draw_values(session: BuildSession) -> Image.Image:
    """Draw the values of every edit, each on the model as the edits before left it."""
    pictures = []
    for number, edit in enumerate(session.loaded.spec.edits):
        generator = generator_of(session)
        values = find_source_values(session.loaded, number, generator, session.moment)
        whole, alone = draw_alone(generator, edit.layer, values)
        pictures.append(_pair(whole, alone, ("image", "value")))
        _advance(session, number)
    return stack_pictures(pictures)


@on_device
def _draw_keys(session: BuildSession, count: int, seed: int) -> Image.Image:
    """Draw where the key of every edit matches, each on the model as the edits before left it."""
    pictures = []
    sampler = image_spec(session.loaded.spec).latents.sampler
    for number, edit in enumerate(session.loaded.spec.edits):
        generator = generator_of(session)
        direction = context_direction(session, number, generator)
        stream = LatentStream(seed, generator.architecture.latent_size, sampler)
        images, light, _ = find_matches(
            generator, edit.layer, direction, stream, count, session.compatibility
        )
        pictures.append(_pair(images, spotlight(images, light), ("image", "match")))
        _advance(session, number)
    return stack_pictures(pictures)


def _pair(above: Tensor, below: Tensor, labels: tuple[str, str]) -> Image.Image:
    return before_and_after(above.float().cpu(), below.float().cpu(), labels)


def _advance(session: BuildSession, number: int) -> None:
    """Apply edit `number`, unless it is the last."""
    if number < len(session.loaded.spec.edits) - 1:
        session.edit(number)
