"""git, as commands ask it and as it is told of locks and patches. Imports no torch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from editspec_runtime.errors import UsageError

LOCKS, PATCHES = "editspec-lock", "editspec-patch"
"""The names of the merge driver and of the diff driver."""

ATTRIBUTES = f"""\
# How git merges locks and shows patches. Once in each clone: editspec git install
*.yaml.lock merge={LOCKS}
*.yml.lock merge={LOCKS}
*.json.lock merge={LOCKS}
**/patches/*.safetensors diff={PATCHES}
"""
"""The lines of ``.gitattributes`` that name both drivers."""

STATUS = "Run in a checkout in which git status works"


def driver_settings() -> dict[str, str]:
    """The settings of git that say what the drivers run.

    They name this interpreter, as git is also run where no environment is active.
    """
    editspec = f"{shlex.quote(sys.executable)} -m editspec git"
    # git gives seven arguments: the path, then file, digest and mode of each side.
    compare = shlex.quote(f'exec {editspec} diff-patch "$1" "$2" "$5" -q')
    return {
        f"merge.{LOCKS}.name": "editspec: locks, edit by edit",
        f"merge.{LOCKS}.driver": f"{editspec} merge-lock %O %A %B --path %P -q",
        f"diff.{PATCHES}.textconv": f"{editspec} show-patch -q",
        f"diff.{PATCHES}.command": f"sh -c {compare} --",
    }


def run_git(
    *arguments: str, folder: Path = Path(), remedy: str = STATUS
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder. Raises `UsageError` where there is no git."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=False
        )
    except OSError as error:
        raise UsageError("git cannot be run.", f"Install git. {remedy}.") from error


def find_commit(revision: str) -> str:
    """The commit that a revision names. Raises `UsageError` where there is none."""
    # A revision that begins with a dash must not be taken for an option of git.
    named = f"{revision}^{{commit}}"
    known = run_git("rev-parse", "--verify", "--quiet", "--end-of-options", named)
    if known.returncode:
        # Of a revision that it does not know, git says nothing: all else it says itself.
        if said := known.stderr.decode(errors="replace").strip():
            raise describe_failure(said, f"{STATUS}, or leave --base out.")
        raise UsageError(
            f"git knows no revision {revision}.",
            "Fetch it: a shallow clone holds the last commit alone.",
        )
    return known.stdout.decode().strip()


def describe_failure(said: str, hint: str) -> UsageError:
    """The error of a git that fails, in its own words."""
    reason = said.splitlines()[0].removeprefix("fatal: ").rstrip(".")
    if "dubious ownership" in reason:
        hint = "Let git trust the checkout: git config --global --add safe.directory FOLDER."
    return UsageError(f"git fails: {reason}.", hint)
