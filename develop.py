#!/usr/bin/env python3
"""Sets up what a job needs, and does it: ``python3 develop.py demo`` or ``python3 develop.py test``.

Needs Python 3.11 and pip, nothing else; installs into .venv beside this file.
"""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
SCRIPTS = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin")
RECIPE = "specs/skyline/dome_to_spire.yaml"

JOBS = {
    # The main job: a spec in, a patch and a picture out.
    "demo": [
        ["editspec", "build", RECIPE, "-o", "out"],
        ["editspec", "render", RECIPE, "-o", "out/before-after.png"],
    ],
    # All that a change must pass.
    "test": [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["pytest"],
    ],
}


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
    package = ".[test]" if job == "test" else "."
    commands = [["python", "-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", package], *JOBS[job]]
    for command in commands:
        print("+", " ".join(command), flush=True)
        code = subprocess.run([str(SCRIPTS / command[0]), *command[1:]], cwd=ROOT).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
