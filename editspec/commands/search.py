"""``editspec search``: the images that match a selection best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.at_edit import open_at_edit
from editspec.engine.named_model import spec_of_model
from editspec.engine.result import CommandResult
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.explore import (
    SimilarPlace,
    add_selection,
    draw_places,
    find_similar_places,
    spec_stream,
)
from editspec.modalities.image.pictures import picture_bytes, require_free_picture
from editspec.worlds.registry import DEFAULT_WEIGHTS
from editspec_compiler import LoadedSpec, Problem, SpecError, load
from editspec_runtime.codes import Code
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.io.files import write
from editspec_runtime.modalities.image.streams import SPECS


@dataclass(frozen=True)
class SearchResult(CommandResult):
    """The images that match a selection, the best first.

    Attributes
    ----------
    edit, layer
        The edit that the selection is of, and the layer whose keys were compared.
    images
        The number of images that were searched.
    matches
        The matches, the best first.
    """

    edit: str
    layer: str
    images: int
    matches: tuple[SimilarPlace, ...]

    def to_dict(self) -> dict[str, Any]:
        """The matches as plain values, each with the entry that makes it context."""
        matches = [match.to_dict() for match in self.matches]
        return {"edit": self.edit, "layer": self.layer, "images": self.images, "matches": matches}

    def to_text(self) -> str:
        """The matches as entries of a context, ready for a spec."""
        head = f"# the best matches for {self.edit} at {self.layer}, of {self.images} images"
        return "\n".join([head, *(match.to_text() for match in self.matches)])


def search(
    spec: Path | str | LoadedSpec | None = None,
    *,
    edit: str | None = None,
    latent: int | None = None,
    mask: str | None = None,
    layer: str | None = None,
    model: str = DEFAULT_WEIGHTS,
    family: str | None = None,
    module: str | None = None,
    seed: int = SPECS,
    images: int = 1000,
    count: int = 12,
    out: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> SearchResult:
    """Find the images that match a selection best.

    The selection is the query of an edit of `spec`, else its context, else its target. Without a
    spec, or with one that has no edits, it is given by `latent`, `mask` and `layer`. Images are
    compared with C^-1 k of its mean key k, as in the notebook of the paper's authors.

    Parameters
    ----------
    latent, mask, layer
        Without edits: the number of the image, the place in it (a file, a data URL, or shapes as
        JSON or YAML), and the layer whose keys are compared.
    model, family, module, seed
        Without a spec: the weights, their family (default: the first that fits),
        ``package.module:factory`` of a torch network, and the seed of the latent stream.
    images, count
        The number of images that are searched, and the number of matches.
    out
        A PNG for a contact sheet with the places marked.

    Raises
    ------
    SpecError
        The spec is wrong, or has no such edit; or the selection is given twice or in part.
    FileError
        A foreign file lies at `out`.
    """
    selection = {"--latent": latent, "--mask": mask, "--layer": layer}
    missing = [name for name, value in selection.items() if value is None]
    loaded = spec if spec is None or isinstance(spec, LoadedSpec) else load(spec)
    if loaded is not None and loaded.spec.edits:
        if len(missing) < len(selection):
            raise _wrong_use(
                "a SPEC with edits and --latent, --mask or --layer exclude each other",
                "leave out one of the two",
            )
    elif latent is None or mask is None or layer is None:
        without = "without a SPEC" if loaded is None else "with a SPEC without edits"
        raise _wrong_use(
            f"{without}, {' and '.join(missing)} must be given", "give these, or a SPEC with edits"
        )
    else:
        if loaded is None:
            loaded = spec_of_model(model, family=family, module=module, latents={"seed": seed})
        loaded = add_selection(loaded, latent=latent, mask=mask, layer=layer)
    if out is not None:
        require_free_picture(Path(out))
    session, number = open_at_edit(loaded, edit, device, progress)
    wanted = session.loaded.spec.edits[number]
    with session.kernels():
        generator = generator_of(session)
        matches = find_similar_places(session, number, generator, images, count)
        if out is not None:
            sheet = draw_places(generator, spec_stream(session, generator), matches)
            write(Path(out), picture_bytes(sheet, Path(out)))
    return SearchResult(wanted.name, wanted.layer, images, tuple(matches))


def _wrong_use(message: str, hint: str) -> SpecError:
    return SpecError("command line", [Problem(message, hint=hint, code=Code.OPTION_UNFIT)])
