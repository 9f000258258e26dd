"""``editspec compile``: the rules of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editspec_compiler import LoadedSpec
from editspec_runtime.core.rule import Rule

if TYPE_CHECKING:
    pass
from editspec.engine.folder import BuildFolder, patch_names
from editspec.engine.session import BuildSession
from editspec_runtime.core.progress import ProgressCallback, no_progress


def compile(
    spec: Path | str | LoadedSpec,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> list[Rule]:
    """The rules of a spec, written to `out`/rules where it is given.

    Edit n is compiled on the model as edit n - 1 left it, whose patch is taken from `out` or the
    cache, else solved.

    Raises
    ------
    SpecError
        The spec is wrong.
    EditError
        The weights or the numbers are, or `out` is in the way.
    """
    out = Path(out) if out is not None else None
    session = BuildSession.of(spec, device, progress, out)
    edits = session.loaded.spec.edits
    folder = BuildFolder.prepare(out, patch_names(session.loaded)) if out is not None else None
    rules = []
    for number in range(len(edits)):
        last = number == len(edits) - 1
        rule = session.rule(number, session.generator()) if last else session.edit(number).rule
        if folder:
            folder.keep(folder.rule(number), rule.to_bytes())
        rules.append(rule)
    if folder:
        folder.finish(
            [{"name": rule.edit, "layer": rule.layer, "rank": rule.rank} for rule in rules],
            patches=False,
        )
    return rules
