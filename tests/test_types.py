"""mypy finds nothing wrong with the types, and would find something.

It runs as a test because it takes one core for a minute, in which the others go on with the tests.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check_types(*options: str) -> subprocess.CompletedProcess[str]:
    """Run mypy with the settings of the project."""
    command = [sys.executable, "-m", "mypy", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_types_are_right(tmp_path: Path) -> None:
    found = check_types()
    assert found.returncode == 0, found.stdout + found.stderr
    assert "no issues found in" in found.stdout
    (tmp_path / "wrong.py").write_text("def double(number): return 2 * number\n")
    wrong = check_types(str(tmp_path / "wrong.py"))
    assert "Function is missing a type annotation" in wrong.stdout
