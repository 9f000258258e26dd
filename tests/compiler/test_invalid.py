"""Every example of bad input gives the message that lies beside it, through the API and through the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import editspec
from editspec.cli import app

INVALID = Path(__file__).parents[1] / "invalid"
EXAMPLES = sorted(path.name.removesuffix(".error") for path in INVALID.glob("*.error"))


@pytest.fixture(autouse=True)
def in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the examples lie, so that messages hold relative paths."""
    shutil.copytree(INVALID, tmp_path / "invalid")
    monkeypatch.chdir(tmp_path / "invalid")


def test_every_example_has_its_message() -> None:
    examples = sorted(path.name for path in INVALID.glob("*.*") if path.suffix in (".yaml", ".json"))
    assert examples == EXAMPLES
    assert len(EXAMPLES) > 50


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    head, _, wanted = (INVALID / f"{name}.error").read_text().partition("\n")
    code = int(head.removeprefix("exit "))
    kind = {1: editspec.EditError, 2: editspec.SpecError}[code]
    with pytest.raises(kind) as error:
        editspec.build(name, "out", device="cpu")
    assert wanted == ("error: " if code == 1 else "") + str(error.value) + "\n"

    result = CliRunner().invoke(app, ["build", name, "-o", "out", "--device", "cpu"])
    assert (result.exit_code, result.stderr, result.stdout) == (code, wanted, "")
    assert not Path("trap").exists()
    assert not list(Path("out").rglob("*.safetensors"))


def test_the_files_that_they_name_are_not_what_is_wrong(tmp_path: Path) -> None:
    text = (INVALID / "rank-zero.yaml").read_text().replace("    rank: 0\n", "")
    Path("valid.yaml").write_text(text)
    spec = editspec.load("valid.yaml").spec
    assert (spec.edits[0].rank, spec.statistics.samples, spec.edits[0].solver.method) == (1, 1000, "projected-gradient")
