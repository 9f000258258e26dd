"""``editspec render``: pictures of the effect of edits, or a table of texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from editspec.engine.modality_registry import WritingModality, require_drawing
from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec.engine.table import Table
from editspec.modalities.image.pictures import picture_bytes, png_bytes, require_free_picture
from editspec.modalities.image.render import draw_keys, draw_values
from editspec.views.tables import ENDING, TABLE_FILE, table_markdown
from editspec_compiler import LoadedSpec, load
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import name_ending
from editspec_runtime.modalities.image.streams import REPORTS


@dataclass(frozen=True)
class RenderResult(CommandResult):
    """A picture or a table, and its path."""

    out: Path
    picture: Image.Image | None = None
    table: Table | None = None

    def to_dict(self) -> dict[str, Any]:
        """The path, and the rows of a table."""
        plain: dict[str, Any] = {"out": str(self.out)}
        if self.table is not None:
            columns = self.table.columns
            plain["rows"] = [dict(zip(columns, row, strict=True)) for row in self.table.rows]
        return plain

    def to_text(self) -> str:
        """The path."""
        return str(self.out)

    def _repr_png_(self) -> bytes | None:
        """The picture as a notebook shows it."""
        return None if self.picture is None else png_bytes(self.picture)

    def _repr_markdown_(self) -> str | None:
        """The table as a notebook shows it."""
        return None if self.table is None else table_markdown(self.table)


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

    Of a language model, the completions of its prompts are written as a table; of a text-to-image
    model, its prompts are drawn.

    Parameters
    ----------
    out
        A new picture, or one that editspec made: .png, .jpg or .webp. Of a language model .md.
    value
        Draw instead, for every edit, the images that its values come from, and each value by itself
        (paper Fig. 2d).
    key
        Draw instead, for every edit, the images in which the key of its context matches best, lit
        where the key matches (paper Fig. 2c). Of a language model, its prompts and the texts of the
        sample in which the key matches best, token by token.
    count, seed
        The number of images, and the seed of their latent stream; of a table, the number of rows
        of each edit.

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
    if name_ending(out) == ENDING:
        if value or key:
            raise UsageError(
                f"{out} is a name for a table, and what edits are made of is drawn.",
                "Give a name that ends in .png.",
            )
        return _write_table(spec, out, count, device, progress)
    require_free_picture(out)
    # What edits are made of cannot be drawn without edits; the images of the model can.
    session = BuildSession.of(spec, device, progress, needs_edits=value or key)
    if value:
        picture = draw_values(session)
    elif key and isinstance(session.modality, WritingModality):
        picture = session.modality.draw_keys(session, count)
    elif key:
        picture = draw_keys(session, count, seed)
    else:
        engine = require_drawing(session.loaded.spec.model.family)
        picture = engine.draw(session, count, seed)
    write(out, picture_bytes(picture, out))
    return RenderResult(out, picture)


def _write_table(
    spec: Path | str | LoadedSpec, out: Path, count: int, device: str, progress: ProgressCallback
) -> RenderResult:
    """Write the table of texts that a modality has; of others the ending is refused."""
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    TABLE_FILE.require_free(out)
    session = BuildSession.of(loaded, device, progress)
    table = session.modality.tabulate(session, count)
    if table is None:  # whose pictures have other endings
        require_free_picture(out)
        raise UsageError(f"{out} cannot be written.", "Give a name that ends in .png.")
    write(out, table_markdown(table).encode())
    return RenderResult(out, table=table)
