"""What continuous integration does with specs: a pull request is reviewed, what was merged is
applied.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from editspec.commands import check as checks
from editspec.commands import plan as planning
from editspec.commands.apply import apply as apply_
from editspec.commands.build import build as build_
from editspec.commands.render import render as render_
from editspec.engine.lock import input_changes, lock_path, read_lock
from editspec.engine.outputs import require_own_folder
from editspec.engine.session import BuildSession, fetched
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.io.files import write
from editspec_runtime.io.shards import is_sharded

PASSED, FAILED, WRONG = "passed", "failed", "wrong"

SUMMARY, PICTURE = "summary.md", "before-after.png"

PICTURES = 8
"""How many images a review shows."""


def review(
    specs: Sequence[Path | str],
    out: Path | str,
    *,
    base: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Validate, plan, build, check and draw specs, and say it all in `out`/summary.md.

    What is wrong with one spec keeps none of the others from being looked at.

    Parameters
    ----------
    specs
        Paths below the working folder. Each gets a folder of its own path in `out`: ``build``,
        ``before-after.png``, ``checks.md``, ``junit.xml``, and the lock as the build wrote it.
    out
        A new or empty folder, or that of an earlier run.
    base
        A revision of git: the summary says what has changed since the locks that it holds.

    Returns
    -------
    dict
        ``status``: ``passed``; ``failed`` where a check or the work did; ``wrong`` where a spec is.
        ``specs``: of each its ``spec``, ``status``, ``error`` (None: there was none), ``plan`` and
        ``checks``.

    Raises
    ------
    UsageError
        A spec lies elsewhere, or there is no such revision.
    FileError
        `out` is in the way.
    """
    commit = None if base is None else _commit(base)

    def each(spec: Path, folder: Path, lines: list[str]) -> dict[str, Any]:
        loaded = load(spec)
        lines += [] if commit is None else _since(loaded, commit)
        lines += _stale(loaded, folder / lock_path(spec).name)
        plan = planning.plan(loaded, folder / "build", device=device, progress=progress)
        lines += ["### Plan", "", *_block(planning.as_text(plan)), ""]
        built = build_(loaded, folder / "build", device=device, progress=progress)
        write(folder / lock_path(spec).name, lock_path(spec).read_bytes())
        found = checks.check(loaded, folder / "build", device=device, progress=progress)
        checks.Reports(folder / "junit.xml", folder / "checks.md").write(found, spec)
        lines += ["### Checks", "", checks.as_markdown(found)]
        render_(loaded, folder / PICTURE, count=PICTURES, device=device, progress=progress)
        picture = quote((folder / PICTURE).relative_to(Path(out)).as_posix())
        lines += [
            "### Before and after",
            "",
            f"![{len(built)} edits, before and after]({picture})",
            "",
        ]
        return {
            "plan": plan,
            "checks": found["checks"],
            "status": PASSED if found["passed"] else FAILED,
        }

    return _for_each(specs, Path(out), each)


def apply(
    specs: Sequence[Path | str],
    out: Path | str,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Build and check specs, and apply those that pass to their bases: ``edited.safetensors`` in
    the folder of each.

    Takes, raises and returns what `review` does, with ``digest``, that of the edited weights, in
    place of the plan. Weights of several files are written as such, into a folder ``edited``.
    """

    def each(spec: Path, folder: Path, lines: list[str]) -> dict[str, Any]:
        loaded = load(spec)
        built = build_(loaded, folder / "build", device=device, progress=progress)
        found = checks.check(loaded, folder / "build", device=device, progress=progress)
        checks.Reports(folder / "junit.xml", folder / "checks.md").write(found, spec)
        lines += ["### Checks", "", checks.as_markdown(found)]
        if not found["passed"]:
            lines += ["Not applied.", ""]
            return {"checks": found["checks"], "status": FAILED}
        model = fetched(loaded)
        place = folder / ("edited" if is_sharded(model) else "edited.safetensors")
        applied = apply_(model, [edit.path for edit in built if edit.path is not None], place)
        lines += [
            f"Applied: `{place.relative_to(Path(out)).as_posix()}` holds weights `{applied.result}`.",
            "",
        ]
        return {"checks": found["checks"], "digest": applied.result, "status": PASSED}

    return _for_each(specs, Path(out), each)


def _for_each(
    specs: Sequence[Path | str], out: Path, each: Callable[[Path, Path, list[str]], dict[str, Any]]
) -> dict[str, Any]:
    """Do something with every spec, which adds lines to the summary; an error becomes part of it
    and of the result.
    """
    paths = [Path(spec) for spec in specs]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"{path} does not lie below the working folder.",
                "Run it where the repository begins.",
            )
    require_own_folder(out, SUMMARY, "run of ci")
    write(out / SUMMARY, b"")
    entries, text = [], []
    for path in paths:
        entry: dict[str, Any] = {"spec": str(path), "error": None}
        lines: list[str] = []
        try:
            found = each(path, out / path, lines)
        except (SpecError, EditError) as error:
            found = {
                "status": WRONG if isinstance(error, SpecError) else FAILED,
                "error": str(error),
            }
            lines += _block(str(error))
        entries.append(entry | found)
        text += [f"## `{path}`: {found['status']}", "", *lines]
    write(out / SUMMARY, ("\n".join(text) + "\n").encode())
    statuses = {entry["status"] for entry in entries}
    return {"status": next(s for s in (WRONG, FAILED, PASSED) if s in statuses), "specs": entries}


def _stale(loaded: LoadedSpec, new: Path) -> list[str]:
    """What is to be said of the lock beside a spec, as Markdown: nothing where it is of the
    spec.
    """
    path = lock_path(loaded.path)
    lock = read_lock(path)
    if lock is not None and not input_changes(loaded, lock.weights, lock):
        return []
    state = "There is no" if lock is None else "Out of date is"
    return [
        f"{state} `{path}`: put the `{new.name}` that this build wrote beside the spec, and commit it.",
        "",
    ]


def _since(loaded: LoadedSpec, commit: str) -> list[str]:
    """What has changed in a spec since the lock that a commit holds, as Markdown."""
    head, path = [f"### Since `{commit[:12]}`", ""], lock_path(loaded.path)
    shown = _git("show", f"{commit}:./{path.name}", folder=path.parent)
    if shown.returncode:
        return [*head, "It has no lock of this spec: everything is new.", ""]
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / path.name
        write(before, shown.stdout)
        try:
            lock = read_lock(before)
        except SpecError as error:
            return [*head, f"Its lock cannot be read: {error.problems[0].message}.", ""]
    assert lock is not None
    changes = input_changes(loaded, BuildSession.of(loaded, "cpu", no_progress).base, lock)
    return [
        *head,
        *(
            _block("\n".join(changes))
            if changes
            else ["Nothing that bears on an edit has changed."]
        ),
        "",
    ]


def _commit(revision: str) -> str:
    """The commit that a revision names. Raises `UsageError` where there is none."""
    known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if known.returncode:
        raise UsageError(
            f"git knows no revision {revision}.",
            "Fetch it: a shallow clone holds the last commit alone.",
        )
    return known.stdout.decode().strip()


def _git(*arguments: str, folder: Path = Path()) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=False
        )
    except OSError as error:
        raise UsageError(
            "git cannot be run, and --base names a revision.", "Install git, or leave --base out."
        ) from error


def _block(text: str) -> list[str]:
    """Text as it is, in Markdown: indented, since what it quotes of a spec may hold the marks of a
    fence.
    """
    return [f"    {line}" for line in text.splitlines()]
