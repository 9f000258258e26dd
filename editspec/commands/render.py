"""``editspec render``: pictures of the effect of edits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec.modalities.image.pictures import picture_bytes, png_bytes, require_free_picture
from editspec.modalities.image.render import draw_edits, draw_keys, draw_values
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.io.files import write
from editspec_runtime.modalities.image.streams import REPORTS


@dataclass(frozen=True)
class RenderResult(CommandResult):
    """A picture, and its path."""

    out: Path
    picture: Image.Image

    def to_dict(self) -> dict[str, str]:
        """The path of the picture."""
        return {"out": str(self.out)}

    def to_text(self) -> str:
        """The path of the picture."""
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
    """Draw images before and after the edits of a spec, or those of its model without edits.

    Parameters
    ----------
    spec
        The path of a spec, or a spec that is loaded.
    out
        A new picture, or one that editspec made: .png, .jpg or .webp.
    value
        Draw instead, for every edit, the images that its values come from, and each value by itself
        (paper Fig. 2d).
    key
        Draw instead, for every edit, the images in which the key of its context matches best, lit
        where the key matches (paper Fig. 2c).
    count, seed
        The number of images, and the seed of their latent stream.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    progress
        A callback ``(task, done, total)`` that is called as the work goes on.

    Raises
    ------
    UsageError
        Both `value` and `key` are given.
    SpecError
        The spec or its lock is wrong.
    EditError
        The weights or the numbers are wrong, or a foreign file lies at `out`.
    """
    if value and key:
        raise UsageError("--value and --key exclude each other.", "Give --value or --key.")
    out = Path(out)
    require_free_picture(out)
    # What edits are made of cannot be drawn without edits; the images of the model can.
    session = BuildSession.of(spec, device, progress, needs_edits=value or key)
    if value:
        picture = draw_values(session)
    elif key:
        picture = draw_keys(session, count, seed)
    else:
        picture = draw_edits(session, count, seed)
    write(out, picture_bytes(picture, out))
    return RenderResult(out, picture)
