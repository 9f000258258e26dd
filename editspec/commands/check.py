"""``editspec check``: the checks of a spec, measured on its build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.checks import CheckRow, all_pass, judge
from editspec.engine.functions import import_function
from editspec.engine.model_session import on_device
from editspec.engine.policy import load_obeying
from editspec.engine.result import DONE, FAILED, CommandResult, to_plain
from editspec.engine.session import BuildSession
from editspec.views.checks import CheckFiles, checks_table
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class CheckResult(CommandResult):
    """The checks of a spec, with one row for each edit that a check is about."""

    checks: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """Whether no check of severity ``error`` failed."""
        return all_pass(self.checks)

    @property
    def exit_code(self) -> int:
        """The exit code: 1 where a check of severity ``error`` failed."""
        return DONE if self.passed else FAILED

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain values, and whether they passed."""
        return {"passed": self.passed, "checks": to_plain(self.checks)}

    def to_text(self) -> str:
        """The rows as a table without colours."""
        return checks_table(self.checks)

    def to_terminal(self, width: int) -> str:
        """The rows as a table in colours."""
        return checks_table(self.checks, width, colours=True)


def check(
    spec: Path | str | LoadedSpec,
    out: Path | str | None = None,
    *,
    junit: Path | str | None = None,
    markdown: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> CheckResult:
    """Measure the checks of a spec.

    Parameters
    ----------
    out
        The folder of a build, whose patches are taken. Patches that lie neither there nor in the
        cache are solved.
    junit, markdown
        Files for the checks, as JUnit XML and as Markdown.

    Raises
    ------
    SpecError
        The spec or its lock is wrong, or the spec breaks the policy of its project.
    EditError
        The weights or the numbers are wrong.
    """
    files = CheckFiles.of(junit, markdown)
    files.require_places()
    folder = Path(out) if out is not None else None
    session = BuildSession.of(load_obeying(spec), device, progress, folder)
    result = check_session(session)
    files.write(result.checks, session.loaded.path)
    return result


def require_functions(session: BuildSession) -> None:
    """Import the functions that checks call, before the work that precedes the checks.

    Raises `CodeError` where foreign code may not run, `FileError` where it cannot be imported.
    """
    folder = session.loaded.path.parent
    for each in session.loaded.spec.checks:
        if each.code is not None:
            import_function(each.code, folder, allow_code=session.allow_code)


@on_device
def check_session(session: BuildSession) -> CheckResult:
    """Measure the checks in a session in which nothing has been built yet."""
    spec, checks = session.loaded.spec, session.loaded.spec.checks
    if not checks:
        return CheckResult(())
    require_functions(session)
    built = [session.edit(number) for number in range(len(spec.edits))]
    measures = session.modality.measures(session, built)
    rows = []
    for number, each in enumerate(checks):
        session.progress("checks", number, len(checks))
        for edit in spec.edits_of(each):
            rows.append(judge(each, edit, *measures.measure(number, edit)))
    session.progress("checks", len(checks), len(checks))
    return CheckResult(tuple(rows))
