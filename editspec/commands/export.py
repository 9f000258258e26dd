"""``editspec export``: specs and patches in the formats of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from editspec.engine.export_registry import EXPORT_FORMATS
from editspec.engine.export_results import AdapterExport, RecordExport, TensorsExport
from editspec_compiler import Problem, SpecError
from editspec_runtime.codes import Code
from editspec_runtime.errors import UsageError


def export(
    files: Sequence[Path | str],
    format: str,
    out: Path | str,
    *,
    model: str | Path | None = None,
) -> RecordExport | AdapterExport | TensorsExport:
    """Export a spec or patches in the formats of other tools.

    Parameters
    ----------
    files
        A spec, or patches in their order.
    format
        ``record``: a spec as a record of the authors' notebook. ``peft``: the change of the patches
        as a LoRA. ``diffusers``, ``kohya``: the same of a text-to-image model, by the names that
        programs that draw have. ``delta``: the change of each parameter, by its name and in its
        shape, summed up in float64 and rounded once. ``full``: the parameters that change, as they
        are afterwards.
    out
        A file; for ``peft``, a folder; for ``diffusers`` and ``kohya``, either.
    model
        For ``full``: the base of the patches.

    Raises
    ------
    SpecError
        The spec is wrong, a record cannot hold all of it, or there is no such format.
    UsageError
        The files or the model do not fit the format.
    PatchError
        The patches do not follow one another, were built on other weights, or change parameters
        that the format cannot hold.
    FileError
        Foreign files lie at `out`.
    """
    found = EXPORT_FORMATS.get(format)
    if found is None:
        known = f"known here: {', '.join(EXPORT_FORMATS)}"
        raise SpecError(
            "--format",
            [Problem(f"there is no format {format}", hint=known, code=Code.OPTION_UNFIT)],
        )
    if found.of_spec and len(files) > 1:
        raise UsageError(f"A {format} is made of one SPEC.", "Give one SPEC.")
    if found.of_base is (model is None):
        based = [name for name, each in EXPORT_FORMATS.items() if each.of_base]
        raise UsageError(
            f"--format {' or '.join(based)} and --model BASE belong together.",
            "Give both or neither.",
        )
    return found.write(files, Path(out), None if model is None else str(model))
