"""The page in the repository is what its sources give, and it needs nothing from anywhere else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

STUDIO = Path(__file__).parents[2] / "editspec" / "studio"


@pytest.mark.slow
def test_the_bundle_is_what_the_sources_give(page_sources: Path) -> None:
    built = subprocess.run(
        ["npm", "run", "build"], cwd=page_sources, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    made = {path.name: path.read_bytes() for path in (page_sources.parent / "static").iterdir()}
    kept = {path.name: path.read_bytes() for path in (STUDIO / "static").iterdir()}
    assert made == kept, (
        "the sources have changed:"
        " npm ci && npm run build in editspec/studio/web, and commit static"
    )
    source = page_sources / "src" / "studio.css"
    source.write_text(source.read_text().replace("44px", "45px"))
    subprocess.run(["npm", "run", "build"], cwd=page_sources, capture_output=True, check=True)
    assert (page_sources.parent / "static" / "studio.css").read_bytes() != kept["studio.css"]


def test_the_page_names_no_other_server() -> None:
    for path in (STUDIO / "static").iterdir():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\"'`\s)]*", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, (path, addresses)


def test_the_lock_names_no_registry() -> None:
    assert "://" not in re.sub(
        r'"url": "[^"]*"', "", (STUDIO / "web" / "package-lock.json").read_text()
    )
