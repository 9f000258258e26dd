"""The page in the repository is what its sources give, and it needs nothing from anywhere else."""

from __future__ import annotations

import json
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


@pytest.mark.slow
def test_the_geometry_of_the_canvas_is_tested(page_sources: Path) -> None:
    def passes(*files: str) -> bool:
        command = ["npm", "test", "--", *files]
        tested = subprocess.run(command, cwd=page_sources, capture_output=True, text=True)
        return tested.returncode == 0

    assert passes()
    geometry = page_sources / "src" / "image" / "geometry.ts"
    right = geometry.read_text()
    assert "<= reach ** 2" in right
    geometry.write_text(right.replace("<= reach ** 2", "< reach"))
    assert not passes("src/image/geometry.test.ts")
    geometry.write_text(right)


def test_the_page_names_no_other_server() -> None:
    for path in (STUDIO / "static").iterdir():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\"'`\s)]*", path.read_text()))
        # Names of the languages of elements, which nothing is fetched from.
        foreign = {each for each in addresses if not each.startswith("http://www.w3.org/")}
        assert foreign == set(), (path, foreign)


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((STUDIO / "web" / "package-lock.json").read_text())
    for package in lock["packages"].values():
        package.pop("funding", None)
    assert "://" not in json.dumps(lock)
