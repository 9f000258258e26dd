"""``editspec build``: rules, patches, manifest and lock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec.engine.lock import (
    lock_path,
    require_place,
    write_lock,
)
from editspec_compiler import LoadedSpec
from editspec_runtime.errors import (
    UsageError,
)

if TYPE_CHECKING:
    pass
from editspec.engine.folder import (
    PARETO,
    REPORT,
    STATEMENT,
    BuildFolder,
    patch_names,
)
from editspec.engine.session import BuildSession, BuiltEdit
from editspec_runtime.core.progress import ProgressCallback, no_progress


def build(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    frozen: bool = False,
    page: bool = False,
    provenance: bool = False,
    pareto: bool = False,
    pick: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> list[BuiltEdit]:
    """Compile and solve every edit of a spec: rules, patches and manifest.json in the folder `out`,
    and ``SPEC.lock``.

    A folder that an earlier build made is brought up to date: only edits that are new, changed, or
    dependent on these are solved. With `frozen` the lock is not written but obeyed. With `page` all
    that can be told of the build is written, too: `out`/report.html; with `provenance` an in-toto
    statement of what it was made from: `out`/provenance.json; with `pareto` what each
    collateral_weight gives, as numbers and as a picture: `out`/pareto.json and pareto.png. With
    `pick`, ``N`` or ``NAME=N``, the collateral_weight of point N in the pareto.json of an earlier
    build is first written into the spec; then it is built, with `pareto`.

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    LockError
        With `frozen`, where an input is not as the lock has it, or an artifact came out otherwise
        in the same environment.
    UsageError
        With `pareto`, where no edit is solved by least squares; with `pick`, where there is no such
        point, or the spec cannot be changed.
    EditError
        The weights or the numbers are wrong, or `out` is in the way.
    """
    if frozen and pick is not None:
        raise UsageError(
            "--pick changes the spec, which --frozen builds as its lock has it.",
            "Leave one of them out.",
        )
    pareto = pareto or pick is not None
    session = BuildSession.of(spec, device, progress, Path(out))
    if pareto and not any(
        edit.solver.method == "least-squares" for edit in session.loaded.spec.edits
    ):
        raise UsageError(
            "--pareto is for edits that are solved by least-squares, and this spec has none.",
            "Write solver: least-squares.",
        )
    if frozen:
        session.require_unchanged()
    else:
        require_place(lock_path(session.loaded.path))
    if pick is not None:
        from editspec.engine.pick import picked

        session = session.with_spec(picked(session, Path(out), pick))
    beside = [name for name, wanted in ((REPORT, page), (STATEMENT, provenance)) if wanted]
    beside += PARETO if pareto else ()
    folder = session.folder = BuildFolder.prepare(Path(out), patch_names(session.loaded), beside)
    built = []
    for number in range(len(session.loaded.spec.edits)):
        edit = session.edit(number)
        folder.keep(folder.rule(number), edit.rule.to_bytes())
        folder.keep(folder.patch(number), edit.patch.to_bytes())
        built.append(replace(edit, path=folder.patch(number)))
    if frozen:
        session.require_same_artifacts(built)
    if page:
        from editspec.views.report import build_page

        folder.keep(folder.root / REPORT, build_page(session, built))
    if provenance:
        from editspec.engine.provenance import statement

        folder.keep(folder.root / STATEMENT, statement(session, built))
    if pareto:
        from editspec.engine.pareto import curves, picture
        from editspec.modalities.image.pictures import png_bytes

        found = curves(session, built)
        folder.keep(
            folder.root / PARETO[0],
            (json.dumps({"curves": found}, indent=2, sort_keys=True) + "\n").encode(),
        )
        folder.keep(folder.root / PARETO[1], png_bytes(picture(found)))
    folder.finish([manifest_entry(edit) for edit in built])
    if not frozen:
        write_lock(lock_path(session.loaded.path), session.new_lock(built))
    return built


def manifest_entry(edit: BuiltEdit) -> dict[str, Any]:
    """What the manifest says of an edit: all of it follows from the inputs."""
    metadata = edit.patch.metadata
    names = ("name", "layer", "rank", "base", "parent", "result", "edit", "collateral")
    return {name: metadata[name] for name in names} | {
        "digest": metadata["content"],
        "loss": edit.loss,
    }
