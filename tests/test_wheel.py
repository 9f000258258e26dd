"""The wheel that ``python -m build`` makes holds all that editspec needs, and nothing else."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

import editspec

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "editspec": ROOT / "editspec",
    "editspec_compiler": ROOT / "compiler" / "editspec_compiler",
    "editspec_runtime": ROOT / "runtime" / "editspec_runtime",
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made by the backend that is installed, as a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", str(folder)]
    # A build of a recipe leaves a lock beside it, which must not travel.
    lock = ROOT / "specs" / "skyline" / f"test-wheel-{os.getpid()}.yaml.lock"
    lock.touch()
    try:
        made = subprocess.run([*build, str(ROOT)], capture_output=True, text=True, check=False)
    finally:
        lock.unlink()
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> Message:
    """What the wheel says of itself."""
    (file,) = unpacked.glob("*.dist-info/METADATA")
    return email.message_from_string(file.read_text())


def sources() -> Iterator[str]:
    """The names that the files of the three packages have in the wheel."""
    for name, folder in PACKAGES.items():
        for path in folder.rglob("*"):
            place = path.relative_to(folder).as_posix()
            if path.is_file() and "__pycache__" not in place and "studio/web/" not in place:
                yield f"{name}/{place}"


def test_it_holds_the_packages_and_the_recipes_alone(unpacked: Path) -> None:
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    recipes = {f"editspec/{path.relative_to(ROOT)}" for path in (ROOT / "specs").rglob("*.yaml")}
    expected = {*sources(), *recipes}
    assert not expected - files
    tops = {name.partition("/")[0] for name in files}
    assert tops - set(PACKAGES) == {f"editspec-{editspec.__version__}.dist-info"}
    assert not [name for name in files if name.endswith((".pyc", ".lock", ".ts"))]


def test_it_works_where_it_is_unpacked(unpacked: Path, tmp_path: Path) -> None:
    recipe = unpacked / "editspec" / "specs" / "skyline" / "dome_to_spire.yaml"
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "from editspec.cli.main import main; print(sys.modules['editspec'].__file__); main()"
    )
    command = [sys.executable, "-c", code, str(unpacked), "validate", str(recipe)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(unpacked))


def test_what_it_says_of_itself(unpacked: Path, metadata: Message) -> None:
    assert metadata["Version"] == editspec.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
    assert "editspec" in (next(unpacked.glob("*.dist-info/entry_points.txt"))).read_text()
    for package in PACKAGES:
        assert (unpacked / package / "py.typed").is_file()


def test_the_image_is_built_of_what_is_there() -> None:
    """Docker itself is not on every machine; what its file names is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "Dockerfile").read_text()
    (extras,) = re.findall(r'"/source\[(.*)\]"', text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    assert entry in project["scripts"]
    ignored = (ROOT / ".dockerignore").read_text().split()
    needed = ["LICENSE", "README.md", "compiler", "constraints.txt", "editspec", "runtime", "specs"]
    assert not set(needed) & set(ignored)
    assert all((ROOT / name).exists() for name in needed)
