"""``editspec build``: rules, patches, manifest and lock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from editspec.charts.picture import draw_scatters
from editspec.charts.scatter import Axis, Point, Scatter
from editspec.commands.build_several import BuildsResult, build_several
from editspec.commands.check import CheckResult, check_session, require_functions
from editspec.commands.open import open
from editspec.engine.built import BuiltEdit
from editspec.engine.collateral import predicted_collateral
from editspec.engine.folder import PARETO, REPORT, STATEMENT, BuildFolder, patch_names
from editspec.engine.lock import (
    lock_path,
    require_place,
    require_unchanged,
    write_lock,
)
from editspec.engine.lock_results import (
    UncomparedEdit,
    list_uncompared,
    require_same_artifacts,
)
from editspec.engine.opened import OpenedModel
from editspec.engine.pareto import VARY, ParetoCurve, curves_text, has_curve, pareto_curves
from editspec.engine.pick import write_picked
from editspec.engine.policy import load_obeying
from editspec.engine.provenance import statement
from editspec.engine.result import DONE, CommandResult, describe_layers, describe_rank, to_plain
from editspec.engine.session import BuildSession
from editspec.engine.warnings import asked_for, warning_lines
from editspec.modalities.image.pictures import png_bytes
from editspec.views.checks import CheckFiles
from editspec.views.report import build_report, require_content
from editspec_compiler import LoadedSpec
from editspec_compiler.problems import Problem
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.methods.registry import method_of, methods_with_a_curve
from editspec_runtime.patches.patch import layer_metadata


@dataclass(frozen=True)
class BuildResult(CommandResult):
    """A build.

    Attributes
    ----------
    edits
        The edits in the order of the spec.
    report, provenance, pareto
        The paths of these files; None where they were not asked for.
    curves
        The numbers of each collateral_weight; empty without `pareto`.
    checked
        The result of the checks; None where they were not asked for.
    uncompared
        The edits that could not be compared with the lock; None where the build is not frozen.
    notes
        Sentences about what is assumed of the model because its weights do not say it.
    warnings, warning_lines
        What in the spec may not be meant, as values and for people.
    loaded
        The spec that was built.
    """

    edits: tuple[BuiltEdit, ...]
    report: Path | None = None
    provenance: Path | None = None
    pareto: Path | None = None
    curves: tuple[ParetoCurve, ...] = ()
    checked: CheckResult | None = None
    uncompared: tuple[UncomparedEdit, ...] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    warning_lines: tuple[str, ...] = ()
    loaded: LoadedSpec | None = field(default=None, repr=False)

    def open(self, device: str = "auto") -> OpenedModel:
        """Open the model of the spec with the patches of this build.

        Raises
        ------
        EditError
            The weights or the patches are no longer what they were.
        """
        assert self.loaded is not None
        paths = [edit.path for edit in self.edits if edit.path is not None]
        return open(self.loaded, device=device).with_patches(*paths)

    def _repr_png_(self) -> bytes | None:
        """Images before and after, as a notebook shows the build; None where nothing is drawn."""
        picture = self.open().compare()
        return None if picture is None else png_bytes(picture)

    @property
    def exit_code(self) -> int:
        """The exit code of the checks; 0 without checks."""
        return DONE if self.checked is None else self.checked.exit_code

    def to_dict(self) -> dict[str, Any]:
        """The edits without their tensors, the paths of the other files, and the checks."""
        plain: dict[str, Any] = {"edits": [_edit_entry(edit) for edit in self.edits]}
        plain |= {name: str(path) for name, path in self._files().items()}
        plain["warnings"] = [problem.to_dict() for problem in self.warnings]
        if self.uncompared is not None:
            plain["uncompared"] = [to_plain(each) for each in self.uncompared]
        if self.notes:
            plain["notes"] = list(self.notes)
        if self.checked is not None:
            plain |= self.checked.to_dict()
        return plain

    def to_text(self) -> str:
        """One line for each edit, then the other files and the checks."""
        checked = "" if self.checked is None else self.checked.to_text()
        return self._text(checked)

    def to_terminal(self, width: int) -> str:
        """The text, with the table of checks as wide as the terminal."""
        checked = "" if self.checked is None else self.checked.to_terminal(width)
        return self._text(checked)

    def _text(self, checked: str) -> str:
        lines = []
        for edit in self.edits:
            lines += [_edit_line(edit), *warning_lines(edit.rule.name, edit.warnings)]
        lines += [each.to_line() for each in self.uncompared or ()]
        lines += [f"{name}: {path}" for name, path in self._files().items()]
        lines += [f"note: {note}" for note in self.notes]
        if self.pareto is not None:
            lines.append(curves_text(self.curves))
        lines += self.warning_lines
        if self.checked is not None:
            lines += ["", checked]
        return "\n".join(lines)

    def _files(self) -> dict[str, Path]:
        named = {"report": self.report, "provenance": self.provenance, "pareto": self.pareto}
        return {name: path for name, path in named.items() if path is not None}


@overload
def build(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    select: Sequence[str] = (),
    frozen: bool = False,
    check: bool = False,
    junit: Path | str | None = None,
    markdown: Path | str | None = None,
    report: bool = False,
    provenance: bool = False,
    pareto: bool = False,
    pick: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> BuildResult: ...
@overload
def build(
    spec: list[Path] | list[str],
    out: Path | str,
    *,
    select: Sequence[str] = (),
    frozen: bool = False,
    check: bool = False,
    junit: Path | str | None = None,
    markdown: Path | str | None = None,
    report: bool = False,
    provenance: bool = False,
    pareto: bool = False,
    pick: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> BuildsResult: ...
def build(
    spec: Path | str | LoadedSpec | list[Path] | list[str],
    out: Path | str,
    *,
    select: Sequence[str] = (),
    frozen: bool = False,
    check: bool = False,
    junit: Path | str | None = None,
    markdown: Path | str | None = None,
    report: bool = False,
    provenance: bool = False,
    pareto: bool = False,
    pick: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> BuildResult | BuildsResult:
    """Build the patch of every edit of a spec.

    Rules, patches and manifest.json go into the folder `out`, and the lock to ``SPEC.lock``. Only
    edits that are new, changed, or dependent on such edits are solved: the patches of all others
    are taken from `out` or from the cache.

    Parameters
    ----------
    spec
        The spec, or its path; or a list of paths and patterns, whose specs are built into folders
        of their paths below `out`. An error in one of them stops no other.
    select
        Of a list: ``NAME+`` for the specs with an edit of that name (``*`` and ``?`` may be used),
        ``state:modified+`` for those that are not as their lock has them. Default: all.
    frozen
        Obey the lock, and do not write it.
    check
        Measure the checks of the spec after the build, and keep to the policy of the project.
    junit, markdown
        With `check`: files for the checks, as JUnit XML and as Markdown.
    report
        Show all of the build in one HTML file, `out`/report.html.
    provenance
        Write an in-toto statement of the inputs of the build, `out`/provenance.json.
    pareto
        Write the loss and the collateral of each collateral_weight, as `out`/pareto.json and
        `out`/pareto.png.
    pick
        ``N`` or ``NAME=N``: write the collateral_weight of point N, of the pareto.json that lies in
        `out`, into the spec; then build with `pareto`.

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    LockError
        With `frozen`: an input is not as the lock has it, or a result differs from that in the lock
        although the environment is the same.
    UsageError
        Options exclude each other. With `pareto`: no method of the spec has a curve. With `pick`:
        there is no such point, or the spec cannot be changed.
    EditError
        The weights or the numbers are wrong, or foreign files lie at `out`.
    """
    if isinstance(spec, list):
        if junit or markdown or pick is not None:
            raise UsageError(
                "--junit, --markdown and --pick are of one spec, and these may be many.",
                "Leave them out, or build that spec alone.",
            )

        def build_one(path: Path, folder: Path) -> BuildResult:
            """Build one of the specs."""
            return build(
                path,
                folder,
                frozen=frozen,
                check=check,
                report=report,
                provenance=provenance,
                pareto=pareto,
                device=device,
                progress=progress,
            )

        return build_several(spec, Path(out), select, build_one, progress)
    if select:
        raise UsageError("--select is of several specs.", "Give a pattern: 'specs/**'.")
    if (junit or markdown) and not check:
        raise UsageError("--junit and --markdown belong to --check.", "Give --check, too.")
    if frozen and pick is not None:
        raise UsageError(
            "--pick changes the spec, which --frozen builds as its lock has it.",
            "Leave one of them out.",
        )
    files = CheckFiles.of(junit, markdown)
    files.require_places()
    session = BuildSession.of(load_obeying(spec) if check else spec, device, progress, Path(out))
    if check:
        require_functions(session)
    if pick is not None:
        _require_curves(session.loaded)
        require_place(lock_path(session.loaded.path))
        picked = write_picked(session, Path(out), pick)
        session = session.with_spec(load_obeying(picked) if check else picked)
    result = build_session(
        session,
        Path(out),
        frozen=frozen,
        report=report,
        provenance=provenance,
        pareto=pareto or pick is not None,
    )
    if not check:
        return result
    checked = check_session(session.reopen())
    files.write(checked.checks, session.loaded.path)
    return replace(result, checked=checked)


def build_session(
    session: BuildSession,
    out: Path,
    *,
    frozen: bool = False,
    report: bool = False,
    provenance: bool = False,
    pareto: bool = False,
    lock_file: Path | None = None,
) -> BuildResult:
    """Build in a session in which nothing has been built yet, as `build` does.

    `lock_file` is written in place of the lock of the spec, which then stays as it is.
    """
    if pareto:
        _require_curves(session.loaded)
    if report:
        require_content(session.loaded)
    path = _prepare_lock(session, frozen, lock_file)
    asked = {REPORT: report, STATEMENT: provenance, **dict.fromkeys(PARETO, pareto)}
    others = [name for name, wanted in asked.items() if wanted]
    folder = session.folder = BuildFolder.prepare(out, patch_names(session.loaded), others)
    built = _build_edits(session, folder)
    uncompared = None
    if frozen and session.lock is not None:
        locked = [edit.locked for edit in built]
        require_same_artifacts(session.lock, locked)
        uncompared = list_uncompared(session.lock, locked)
    if report:
        folder.keep(out / REPORT, build_report(session, built))
    if provenance:
        folder.keep(out / STATEMENT, statement(session, built))
    curves = _keep_curves(session, folder, built) if pareto else ()
    folder.finish([manifest_entry(edit) for edit in built])
    # The lock comes last: it promises that all of the build is there.
    if not frozen:
        write_lock(path, session.new_lock(built))
    notes = () if session.model is None else session.model.architecture.notes
    result = BuildResult(
        tuple(built),
        curves=curves,
        uncompared=uncompared,
        notes=notes,
        warnings=session.loaded.warnings,
        warning_lines=tuple(session.loaded.warning_lines()),
        loaded=session.loaded,
    )
    if report:
        result = replace(result, report=out / REPORT)
    if provenance:
        result = replace(result, provenance=out / STATEMENT)
    if pareto:
        result = replace(result, pareto=out / PARETO[0])
    return result


def _prepare_lock(session: BuildSession, frozen: bool, lock_file: Path | None) -> Path:
    """The place of the lock of a build, which is obeyed or can be written."""
    if lock_file is not None:
        return lock_file
    path = lock_path(session.loaded.path)
    if frozen:
        require_unchanged(session.loaded, session.base, session.lock)
    else:
        require_place(path)
    return path


def manifest_entry(edit: BuiltEdit) -> dict[str, Any]:
    """The entry of an edit in the manifest.

    All of it follows from the inputs, so that equal builds give equal manifests.
    """
    metadata = edit.patch.metadata
    names = ("name", "rank", "base", "parent", "result", "edit", "collateral")
    entry = {name: metadata[name] for name in names} | layer_metadata(edit.patch.layers)
    return entry | {"digest": metadata["content"], "loss": edit.loss}


def _require_curves(loaded: LoadedSpec) -> None:
    """Raise a `UsageError` where no edit has a method with a curve."""
    solved = [edit for edit in loaded.spec.edits if method_of(edit.solver).has_curve]
    curved = [edit for edit in solved if has_curve(edit)]
    if curved and all(len(edit.layer_names) > 1 for edit in curved):
        raise UsageError(
            "--pareto is for edits of one layer, and those of this spec have several.",
            "Leave --pareto out, or write layer: and a name.",
        )
    if solved and not curved:
        raise UsageError(
            "--pareto is for changes in given directions, and those of this spec are learned, of "
            "full rank or refined.",
            VARY,
        )
    if not solved:
        methods = " or ".join(methods_with_a_curve())
        raise UsageError(
            f"--pareto is for edits that are solved by {methods}, and this spec has none.",
            f"Write solver: {methods}.",
        )


def _build_edits(session: BuildSession, folder: BuildFolder) -> list[BuiltEdit]:
    built = []
    for number in range(len(session.loaded.spec.edits)):
        edit = session.edit(number)
        folder.keep(folder.rule(number), edit.rule.to_bytes())
        folder.keep(folder.patch(number), edit.patch.to_bytes())
        built.append(replace(edit, path=folder.patch(number)))
    return built


def _keep_curves(
    session: BuildSession, folder: BuildFolder, built: Sequence[BuiltEdit]
) -> tuple[ParetoCurve, ...]:
    numbers, picture = (folder.root / name for name in PARETO)
    curves = pareto_curves(session, built)
    text = json.dumps({"curves": to_plain(curves)}, indent=2, sort_keys=True)
    folder.keep(numbers, f"{text}\n".encode())
    folder.keep(picture, png_bytes(draw_scatters([_chart_of(curve) for curve in curves])))
    return curves


def _chart_of(curve: ParetoCurve) -> Scatter:
    points = [
        Point(
            str(point.number), point.collateral, point.residual, picked=point.number == curve.picked
        )
        for point in curve.points
    ]
    residual = Axis("residual: the share of the edit that is left undone", share=True)
    title = f"{curve.edit}: the choice of collateral_weight, by number"
    return Scatter(title, Axis("predicted collateral"), residual, points, rising=False)


def _edit_entry(edit: BuiltEdit) -> dict[str, Any]:
    metadata = edit.patch.metadata
    return {
        "name": edit.rule.name,
        "status": edit.status,
        **layer_metadata(edit.rule.layers),
        "rank": edit.rule.rank,
        "loss": edit.loss,
        "residual": edit.residual,
        "asked": asked_for(edit.rule),
        "patch": str(edit.path),
        "digest": metadata["content"],
        "result": metadata["result"],
        "collateral": metadata["collateral"],
        "warnings": list(edit.warnings),
        "seconds": edit.seconds,
    }


def _edit_line(edit: BuiltEdit) -> str:
    """One edit for people, with the largest collateral of its layers."""
    rank = describe_rank(edit.rule.rank)
    parts = [
        f"{edit.rule.name}: {edit.status}",
        describe_layers(edit.rule.layer),
        rank,
        f"loss {edit.loss:.4f}",
    ]
    if edit.residual is not None:
        parts.append(f"residual {edit.residual:.2g}")
    asked = asked_for(edit.rule)
    if asked < 1:
        parts.append(f"asks for {asked:.1%} of V*")
    parts += [f"collateral {predicted_collateral(edit.patch):.2g}", str(edit.path)]
    return ", ".join(parts)
