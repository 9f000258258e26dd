"""Build the site of the documentation: ``python -m website.build [FOLDER]``.

The site is made of the files as they lie in the repository, so that links between them hold, and
of the reference, which is made from the command line, the language's schema and the docstrings.
FOLDER, by default ``out/site``, gets ``source``, ``html`` and the configuration. Exits with 1
where zensical warns, as it does of links and names that lead nowhere.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from website.commands import write_commands
from website.language import write_language
from website.python import write_python

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "out" / "site"

FOLDERS = ("docs", "examples", "specs")
FILES = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "SECURITY.md")
KEPT = (".cff", ".csv", ".ipynb", ".json", ".jsonl", ".md", ".png", ".py", ".webp", ".yaml", ".yml")
"""The endings of the files that pages link to."""

PAGES: dict[str, Callable[[], str]] = {
    "commands.md": write_commands,
    "language.md": write_language,
    "python.md": write_python,
}
"""The pages of the reference that are made, and how."""


def main() -> int:
    """Write the sources, and build the site of them."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    write_sources(folder / "source")
    shutil.copy(Path(__file__).with_name("zensical.toml"), folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, check=False).returncode


def write_sources(source: Path) -> None:
    """Copy the pages and what they link to, and make the reference."""
    for name in FOLDERS:
        for path in sorted((ROOT / name).rglob("*")):
            if path.suffix in KEPT:
                copy_page(path, source / path.relative_to(ROOT))
    for name in FILES:
        copy_page(ROOT / name, source / name)
    # A site begins with index.md, a repository with README.md.
    copy_page(ROOT / "README.md", source / "index.md")
    for name, write in PAGES.items():
        page = source / "reference" / name
        page.parent.mkdir(exist_ok=True)
        page.write_text(write())


def copy_page(path: Path, target: Path) -> None:
    """Copy a file; links to the README lead to the first page of the site."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".md":
        target.write_text(path.read_text().replace("](../README.md", "](../index.md"))
    else:
        shutil.copy(path, target)


if __name__ == "__main__":
    sys.exit(main())
