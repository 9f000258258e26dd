"""``editspec check``: whether a build does all that its spec says that it must."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.checks import CheckRow, all_pass, judge
from editspec.engine.model_session import on_device
from editspec.engine.result import DONE, FAILED, CommandResult, to_plain
from editspec.engine.session import BuildSession
from editspec.views.checks import CheckFiles, checks_table
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class CheckResult(CommandResult):
    """The checks of a spec, one row for every edit that each is about."""

    checks: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """Whether no check of severity ``error`` failed."""
        return all_pass(self.checks)

    @property
    def exit_code(self) -> int:
        """1 where a check of severity ``error`` failed."""
        return DONE if self.passed else FAILED

    def to_dict(self) -> dict[str, Any]:
        """The rows, and whether they passed."""
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
    """Measure all that the checks of a spec ask for.

    Patches are taken from the folder `out` of a build or from the cache; what is in neither is
    solved. Nothing but the cache is written, and the files `junit` and `markdown`, where given.

    Raises
    ------
    SpecError, EditError
        As `build` does.
    """
    files = CheckFiles.of(junit, markdown)
    files.require_places()
    folder = Path(out) if out is not None else None
    session = BuildSession.of(spec, device, progress, folder)
    result = check_session(session)
    files.write(result.checks, session.loaded.path)
    return result


@on_device
def check_session(session: BuildSession) -> CheckResult:
    """Check in a session in which nothing has been built yet."""
    spec, checks = session.loaded.spec, session.loaded.spec.checks
    if not checks:
        return CheckResult(())
    built = [session.edit(number) for number in range(len(spec.edits))]
    measures = session.modality.measures(session, built)
    rows = []
    for number, each in enumerate(checks):
        session.progress("checks", number, len(checks))
        for edit in spec.checked(each):
            rows.append(judge(each, edit, *measures.measure(number, edit)))
    session.progress("checks", len(checks), len(checks))
    return CheckResult(tuple(rows))
