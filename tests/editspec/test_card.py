"""The model card of a build: what it says, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.commands import contents, run, said


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_spec: Callable[..., Path], one_cache: None
) -> Path:
    """A folder with a spec of two edits and a check, and its build in ``out``."""
    monkeypatch.chdir(tmp_path)
    checks = [{"measure": "finite"}]
    spec = json.loads(tiny_spec(tmp_path, edits=2).read_text())
    Path("spec.yaml").write_text(json.dumps({**spec, "checks": checks}))
    said("build", "spec.yaml", "-o", "out")
    return tmp_path


def head() -> dict[str, object]:
    """The head of the card, as the hub reads it."""
    _, text, _ = Path("out/README.md").read_text().split("---\n", 2)
    return dict(yaml.safe_load(text))


def test_a_card_says_base_edits_checks_and_pictures() -> None:
    result = said("card", "out", "--spec", "spec.yaml", "--licence", "mit")
    assert result == {"card": "out/README.md", "picture": "out/before-after.png", "licence": "mit"}
    text = Path("out/README.md").read_text()
    edits = said("inspect", "out")["edits"]
    base = said("inspect", "tiny.safetensors")["digest"]
    for part in (base, edits[-1]["result"], "edit-0", "edit-1", "patches/02-edit-1.safetensors"):
        assert part in text
    assert "| passed | finite | edit-1 |" in text
    with Image.open("out/before-after.png") as picture:
        assert picture.width > 100
    assert head()["license"] == "mit"
    # The line that it prints applies the patches.
    (line,) = [line.split() for line in text.splitlines() if line.startswith("    editspec apply")]
    words = [f"out/{word}" if word.startswith("patches/") else word for word in line[1:]]
    applied = said(*("tiny.safetensors" if word == "BASE" else word for word in words))
    assert applied["digest"] == edits[-1]["result"]
    # A card is written anew, and a build goes on in its folder.
    assert said("card", "out", "--spec", "spec.yaml", "--licence", "mit") == result
    assert run("build", "spec.yaml", "-o", "out").exit_code == 0
    assert Path("out/README.md").read_text() == text


def test_without_a_spec_it_says_what_patches_say() -> None:
    result = run("card", "out")
    assert (result.exit_code, "give --licence" in result.stdout) == (0, True)
    text = Path("out/README.md").read_text()
    assert "edit-1" in text
    assert "## Checks" not in text
    assert "license" not in head()


def test_the_licence_of_the_base_is_carried_on() -> None:
    Path("README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Tiny\n")
    Path("LICENSE").write_text("Attribution.\n")
    assert said("card", "out", "--spec", "spec.yaml")["licence"] == "cc-by-4.0"
    assert head()["license"] == "cc-by-4.0"
    assert Path("out/LICENSE").read_text() == "Attribution.\n"
    # Nobody may change it.
    result = run("card", "out", "--spec", "spec.yaml", "--licence", "mit")
    assert (result.exit_code, "its licence is cc-by-4.0" in result.stderr) == (2, True)
    # A licence without a card is another one, whose text is there.
    Path("README.md").unlink()
    said("card", "out", "--spec", "spec.yaml")
    assert (head()["license"], head()["license_link"]) == ("other", "LICENSE")


def test_a_card_of_other_patches_is_refused() -> None:
    spec = json.loads(Path("spec.yaml").read_text())
    spec["edits"][1]["rank"] = 2
    Path("other.yaml").write_text(json.dumps(spec))
    before = contents(Path("out"))
    result = run("card", "out", "--spec", "other.yaml")
    assert (result.exit_code, "does not hold the patches" in result.stderr) == (1, True)
    assert contents(Path("out")) == before


def test_what_somebody_wrote_stays() -> None:
    Path("out/README.md").write_text("# Mine\n")
    result = run("card", "out", "--spec", "spec.yaml")
    assert (result.exit_code, "in the way" in result.stderr) == (1, True)
    assert Path("out/README.md").read_text() == "# Mine\n"


def test_names_of_others_are_no_markdown(tiny_spec: Callable[..., Path], folder: Path) -> None:
    Path("README.md").write_text('---\nlicense: "`x` [a](b)"\n---\n')
    said("card", "out", "--spec", "spec.yaml")
    (line,) = [
        line
        for line in Path("out/README.md").read_text().splitlines()
        if "That of the base" in line
    ]
    assert line == "That of the base: `` `x` [a](b) ``."
