"""``editspec ci``: the review of specs, and the edits that follow a merge."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from editspec.commands.apply import apply
from editspec.commands.build import BuildResult, build_session
from editspec.commands.check import CheckResult, check_session, require_functions
from editspec.engine.checks import CheckRow
from editspec.engine.failures import error_code
from editspec.engine.folder import BuildFolder, patch_names
from editspec.engine.git import find_commit, run_git
from editspec.engine.lock import Step, input_changes, lock_path, read_lock
from editspec.engine.opening import fetch_weights
from editspec.engine.plan import Plan, make_plan
from editspec.engine.policy import load_obeying
from editspec.engine.resources import Resources, allow_code, is_code_allowed
from editspec.engine.result import DONE, FAILED, WRONG_USE, CommandResult, count_of, to_plain
from editspec.engine.session import BuildSession
from editspec.engine.shared_files import session_memory
from editspec.modalities.image.pictures import png_bytes, require_free_picture
from editspec.views.checks import CheckFiles, checks_markdown
from editspec.views.text import markdown_block, markdown_code, markdown_text
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.uses import is_asking
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import EditError, UsageError, WorkerError
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.executors.work import describe_worker
from editspec_runtime.families.travelling import may_run_code
from editspec_runtime.io.cache import Cache, use_cache
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import run_folder
from editspec_runtime.io.shards import is_sharded

PASSED, FAILED_STATUS, WRONG = "passed", "failed", "wrong"
EXIT_CODES = {PASSED: DONE, FAILED_STATUS: FAILED, WRONG: WRONG_USE}

SUMMARY, PICTURE = "summary.md", "before-after.png"

LIBRARY = ("A library, which is valid: its values are given by the specs that use it.", "")
"""What a summary says of a spec that is not built alone."""

PICTURES = 8
"""The number of images that a review shows."""


@dataclass(frozen=True)
class CiSpec:
    """One spec of a run.

    Attributes
    ----------
    spec
        The path of the spec.
    status
        ``passed``; ``failed`` where a check or the work failed; ``wrong`` where the spec is wrong.
    error
        The message of an error, which leaves all below None; None where there was no error.
    plan
        The plan, in a review.
    checks
        The rows of the checks.
    digest
        The digest of the edited weights; None where they were not applied.
    reviewed, built
        The names of the edits whose patches were there as the lock names them, and of those that
        had to be built; None in a review.
    lines
        The part of the summary that is about this spec, in Markdown.
    """

    spec: Path
    status: str
    error: str | None = None
    plan: Plan | None = None
    checks: tuple[CheckRow, ...] | None = None
    digest: str | None = None
    reviewed: tuple[str, ...] | None = None
    built: tuple[str, ...] | None = None
    lines: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values, without the fields that are None."""
        plain: dict[str, Any] = {"spec": str(self.spec), "error": self.error, "status": self.status}
        if self.plan is not None:
            plain["plan"] = self.plan.to_dict()
        if self.checks is not None:
            plain["checks"] = to_plain(self.checks)
        if self.digest is not None:
            plain["digest"] = self.digest
        if self.reviewed is not None:
            plain["reviewed"] = list(self.reviewed)
        if self.built is not None:
            plain["built"] = list(self.built)
        return plain


@dataclass(frozen=True)
class CiResult(CommandResult):
    """The specs of a run, in the order in which they were given."""

    specs: tuple[CiSpec, ...]

    @property
    def status(self) -> str:
        """The worst status of all specs."""
        statuses = {spec.status for spec in self.specs}
        return next(status for status in (WRONG, FAILED_STATUS, PASSED) if status in statuses)

    @property
    def exit_code(self) -> int:
        """The exit code of the worst status."""
        return EXIT_CODES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """The status, and each spec."""
        return {"status": self.status, "specs": [spec.to_dict() for spec in self.specs]}

    def to_text(self) -> str:
        """The summary, in Markdown."""
        return self.to_markdown().rstrip()

    def to_markdown(self) -> str:
        """The content of the file of the summary."""
        text = []
        for spec in self.specs:
            text += [f"## {markdown_code(str(spec.spec))}: {spec.status}", "", *spec.lines]
        return "\n".join(text) + "\n"


@dataclass
class _Run:
    """The work on one spec: its folder, and the lines of the summary so far.

    It may be `sent` to another process.
    """

    path: Path
    out: Path
    device: str
    progress: ProgressCallback
    sent: bool = False
    lines: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the spec in the output folder."""
        return self.out / self.path

    @property
    def new_lock(self) -> Path:
        """The lock that a build of this run writes; that of the spec stays as it is."""
        return self.folder / lock_path(self.path).name

    def open(self, loaded: LoadedSpec) -> BuildSession:
        """Open the session of the spec, once a run: its checkpoint may be large."""
        allowed = is_code_allowed()
        if self.sent:
            allowed = may_run_code(allowed, loaded.spec.model.family)
        session = BuildSession.of(
            loaded, self.device, self.progress, self.folder / "build", allow_code=allowed
        )
        require_functions(session)
        return session

    def build(
        self, session: BuildSession, *, provenance: bool = False
    ) -> tuple[BuildResult, BuildSession]:
        """Build within the output folder alone; return the session after the build, too."""
        built = build_session(
            session, self.folder / "build", provenance=provenance, lock_file=self.new_lock
        )
        return built, session.rewind(built.edits)

    def check(self, session: BuildSession) -> CheckResult:
        """Check a build, and add the checks to the summary."""
        found = check_session(session)
        files = CheckFiles(self.folder / "junit.xml", self.folder / "checks.md")
        files.write(found.checks, self.path)
        self.lines += ["### Checks", "", checks_markdown(found.checks)]
        return found


def ci_review(
    specs: Sequence[Path | str],
    out: Path | str,
    *,
    base: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> CiResult:
    """Validate, plan, build, check and draw specs, and write a summary.

    An error in one spec stops no other. Nothing outside of `out` is changed.

    Parameters
    ----------
    specs
        Paths below the working folder. Each spec gets a folder of its own path in `out`, which
        holds ``build``, ``checks.md``, ``junit.xml``, the lock as the build wrote it and, of a
        model that draws, ``before-after.png``.
    out
        A new or empty folder, or the folder of an earlier run; the summary is `out`/summary.md.
    base
        A revision of git. The summary lists the changes since the locks of that revision.

    Raises
    ------
    UsageError
        A spec does not lie below the working folder, or there is no such revision.
    FileError
        Foreign files lie at `out`.
    """
    commit = None if base is None else find_commit(base)
    return _for_each(specs, Path(out), device, progress, partial(_review, commit))


def ci_apply(
    specs: Sequence[Path | str],
    out: Path | str,
    *,
    reviewed: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> CiResult:
    """Check the patches that were reviewed, and apply those of the specs that pass.

    The patches are those that the lock of the spec names, from `reviewed`, `out` or the cache. Only
    what lies in none of them is built, and the result says which edits were. The edited weights are
    ``edited.safetensors`` in the folder of each spec; weights of several files are a folder
    ``edited``. The build holds its provenance, so that it can be signed. Nothing outside of `out`
    is changed. The other parameters are as in `ci_review`.

    Parameters
    ----------
    reviewed
        The output folder of the review, such as its artifact; or, of one spec, the folder of its
        build.
    """
    place = None if reviewed is None else Path(reviewed)
    if place is not None and not place.is_dir():
        raise UsageError(
            f"{place} is not a folder.", "Give the output folder of the review, or its artifact."
        )
    return _for_each(specs, Path(out), device, progress, partial(_apply, place))


def _review(commit: str | None, run: _Run) -> CiSpec:
    loaded = load_obeying(run.path)
    session = run.open(loaded)
    if commit is not None:
        run.lines += _describe_changes(session, commit)
    run.lines += _describe_lock(loaded, run.new_lock)
    plan = make_plan(session)
    run.lines += ["### Plan", "", *markdown_block(plan.to_text()), ""]
    built, session = run.build(session.reopen())
    found = run.check(session)
    require_free_picture(run.folder / PICTURE)
    preview = session.modality.preview(session.rewind(built.edits), PICTURES)
    if preview is not None:
        write(run.folder / PICTURE, png_bytes(preview))
        place = quote((run.folder / PICTURE).relative_to(run.out).as_posix())
        picture = f"![{count_of(len(built.edits), 'edit')}, before and after]({place})"
        run.lines += ["### Before and after", "", picture, ""]
    status = PASSED if found.passed else FAILED_STATUS
    return CiSpec(run.path, status, plan=plan, checks=found.checks)


def _apply(reviewed: Path | None, run: _Run) -> CiSpec:
    session = run.open(load_obeying(run.path))
    if reviewed is not None:
        session = _look_in(session, _reviewed_build(reviewed, run.path))
    steps = session.steps
    built, session = run.build(session, provenance=True)
    run.lines += _describe_origin(steps)
    found = run.check(session)
    result = CiSpec(
        run.path,
        FAILED_STATUS,
        checks=found.checks,
        reviewed=tuple(step.name for step in steps if step.current),
        built=tuple(step.name for step in steps if not step.current),
    )
    if not found.passed:
        run.lines += ["Not applied.", ""]
        return result
    model = fetch_weights(session.loaded)
    place = run.folder / ("edited" if is_sharded(model) else "edited.safetensors")
    applied = apply(model, [edit.path for edit in built.edits if edit.path is not None], place)
    shown = place.relative_to(run.out).as_posix()
    run.lines += [f"Applied: {markdown_code(shown)} holds weights `{applied.digest}`.", ""]
    return replace(result, status=PASSED, digest=applied.digest)


def _reviewed_build(reviewed: Path, spec: Path) -> Path:
    """Find the build of a spec in the output of a review; else the folder itself."""
    inside = reviewed / spec / "build"
    return inside if inside.is_dir() else reviewed


def _look_in(session: BuildSession, folder: Path) -> BuildSession:
    """Let a session take the patches that the lock names from one more folder, too."""
    other = BuildFolder(folder, patch_names(session.loaded), [])
    session = replace(session, others=(other,))
    session.decide()
    return session


def _describe_origin(steps: Sequence[Step]) -> list[str]:
    """Where the patches come from: the review, or a build now; in Markdown."""
    lines = []
    if current := [step.name for step in steps if step.current]:
        names = ", ".join(map(markdown_code, current))
        lines += [f"As reviewed, the patches that the lock names: {names}.", ""]
    if todo := [step for step in steps if not step.current]:
        names = ", ".join(f"{markdown_code(step.name)} ({step.status})" for step in todo)
        lines += [
            f"Built now, as no patch that the lock names was there: {names}. "
            "These are not the bytes that were reviewed.",
            "",
        ]
    return lines


def _for_each(
    specs: Sequence[Path | str],
    out: Path,
    device: str,
    progress: ProgressCallback,
    work: Callable[[_Run], CiSpec],
) -> CiResult:
    """Work on every spec, and write the summary. An error becomes part of the result."""
    paths = [Path(spec) for spec in specs]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"{path} does not lie below the working folder.",
                "Run it where the repository begins.",
            )
    run_folder(SUMMARY, "run of ci").require_free(out)
    token = uuid.uuid4().hex.encode()
    write(out / SUMMARY, token)
    resources = Resources()
    each = _Each(work, out, device, progress, resources.allow_code, resources.cache, token)
    memory = max(map(_needed_memory, paths), default=0) if resources.executor.workers > 1 else 0
    found = resources.executor.map(each, paths, pick_device(device), memory=memory, threaded=True)
    result = CiResult(tuple(found))
    write(out / SUMMARY, result.to_markdown().encode())
    return result


def _needed_memory(path: Path) -> int:
    """The bytes that the work on a spec needs at least; 0 where it cannot be read."""
    try:
        return session_memory(load_obeying(path).weights)
    except (SpecError, EditError):
        return 0


@dataclass(frozen=True)
class _Each:
    """A function that works on the spec at a path, in this process or in another.

    Attributes
    ----------
    work
        The work on one spec.
    out, device, progress
        As in `ci_review`.
    allow_code, cache
        Whether code of others may run, and the cache of the command.
    token
        What stands in the file of the summary as long as the work goes on.
    folder
        The folder that the command works in.
    sent
        Whether this is another process.
    """

    work: Callable[[_Run], CiSpec]
    out: Path
    device: str
    progress: ProgressCallback
    allow_code: bool
    cache: Cache
    token: bytes
    folder: Path = field(default_factory=Path.cwd)
    sent: bool = False

    def __call__(self, path: Path) -> CiSpec:
        """Work on a spec. An error becomes part of the result."""
        run = _Run(path, self.out, self.device, self.progress, self.sent)
        allowing = allow_code() if self.allow_code else nullcontext()
        with chdir(self.folder), use_cache(self.cache.root), allowing:
            try:
                done = self.work(run)
            except (SpecError, EditError) as error:
                if isinstance(error, SpecError) and is_asking(error):
                    return CiSpec(path, PASSED, lines=LIBRARY)
                status = WRONG if error_code(error) == WRONG_USE else FAILED_STATUS
                done = CiSpec(path, status, error=str(error))
                run.lines += markdown_block(str(error))
        return replace(done, lines=tuple(run.lines))

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process, which shows no progress."""
        return {**self.__dict__, "progress": no_progress, "sent": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the state in another process.

        Raises `WorkerError` where its folder is not the one that the command has.
        """
        summary = state["folder"] / state["out"] / SUMMARY
        if not summary.is_file() or summary.read_bytes() != state["token"]:
            raise WorkerError(
                f"{describe_worker()} does not see the folder {state['folder']} as the command "
                "does.",
                "Put it on a file system that all machines share, at the same path.",
            )
        self.__dict__.update(state)


def _describe_lock(loaded: LoadedSpec, new: Path) -> list[str]:
    """The state of the lock of a spec, in Markdown; nothing where it is up to date."""
    path = lock_path(loaded.path)
    lock = read_lock(path)
    if lock is not None and not input_changes(loaded, lock.weights, lock):
        return []
    shown = markdown_code(str(path))
    state = f"There is no {shown}" if lock is None else f"{shown} is out of date"
    hint = (
        f"Put the {markdown_code(new.name)} that this build wrote next to the spec, and commit it."
    )
    return [f"{state}. {hint}", ""]


def _describe_changes(session: BuildSession, commit: str) -> list[str]:
    """The changes in a spec since the lock that a commit holds, in Markdown."""
    loaded = session.loaded
    head, path = [f"### Since `{commit[:12]}`", ""], lock_path(loaded.path)
    shown = run_git("show", f"{commit}:./{path.name}", folder=path.parent)
    if shown.returncode:
        return [*head, "It has no lock of this spec: everything is new.", ""]
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / path.name
        write(before, shown.stdout)
        try:
            lock = read_lock(before)
        except SpecError as error:
            return [
                *head,
                f"Its lock cannot be read: {markdown_text(error.problems[0].message)}.",
                "",
            ]
    assert lock is not None
    changes = input_changes(loaded, session.base, lock)
    if not changes:
        return [*head, "Nothing that bears on an edit has changed.", ""]
    return [*head, *markdown_block("\n".join(changes)), ""]
