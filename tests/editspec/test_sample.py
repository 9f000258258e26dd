"""``editspec sample``, and what a spec without edits is good for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

import editspec
from editspec.modalities.image.gallery import LINE
from editspec.modalities.image.pictures import CELL, GAP
from editspec.studio.server import new_spec
from editspec.studio.spec_editor import add_edit
from editspec_compiler.document import parse
from tests.cases import draw_network
from tests.commands import run, said

CODE = """
from torch import nn

def make():
    net = nn.Sequential(
        nn.ConvTranspose2d(6, 8, 4), nn.BatchNorm2d(8), nn.ReLU(True),
        nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
    )
    net.latent_shape = (6, 1, 1)
    return net
"""
STEP = CELL + GAP
"""From one image of a sheet to the next."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(CODE)
    save_file(draw_network("nets:make", 3), "net.safetensors")
    model = {"family": "torch", "module": "nets:make", "weights": "net.safetensors"}
    content = {"version": 1, "model": model, "latents": {"seed": 7}}
    Path("model.yaml").write_text(yaml.safe_dump(content))
    yield tmp_path
    sys.modules.pop("nets", None)


def tile(sheet: str, place: int) -> Image.Image:
    """The image at a place of a sheet of eight columns, in the model's own size."""
    row, column = divmod(place, 8)
    left, top = GAP + column * STEP, GAP + row * (STEP + LINE)
    with Image.open(sheet) as picture:
        return picture.crop((left, top, left + CELL, top + CELL)).resize((8, 8), 0)


def test_the_gallery_shows_latents_by_their_numbers() -> None:
    found = said("sample", "model.yaml", "-o", "a.png", "--count", 11, "--first", 4, "--allow-code")
    assert found == {"sheet": "a.png", "first": 4, "count": 11, "seed": 7, "sampler": "keyed"}
    with editspec.allow_code():
        opened = editspec.open("model.yaml")
    for place in (0, 7, 10):
        (wanted,) = opened.images([4 + place], seed=7)
        assert tile("a.png", place).tobytes() == wanted.tobytes()
        (other,) = opened.images([5 + place], seed=7)
        assert tile("a.png", place).tobytes() != other.tobytes()
    # A number below each image, and none where there is no image.
    with Image.open("a.png") as picture:
        lines = [
            picture.crop(
                (GAP + n * STEP, GAP + STEP + LINE + CELL, GAP + n * STEP + CELL, picture.height)
            )
            for n in range(4)
        ]
    assert [line.convert("L").getextrema()[0] < 128 for line in lines] == [True] * 3 + [False]


def test_weights_and_a_module_are_named_by_options() -> None:
    arguments = ("net.safetensors", "--module", "nets:make", "--seed", 7, "--count", 2)
    said("sample", *arguments, "-o", "b.png", "--allow-code")
    said("sample", "model.yaml", "--count", 2, "-o", "a.png", "--allow-code")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    said("sample", "builtin:skyline", "-o", "c.png", "--count", 1)
    with Image.open("c.png") as picture:
        assert picture.width == CELL + 2 * GAP


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.safetensors", "--module", "nets:make"), "give --allow-code if you trust it"),
        (("net.safetensors",), "holds no weights of a family"),
        (("model.yaml", "--module", "nets:make"), "A spec names its family and its module itself"),
        (
            ("net.safetensors", "--module", "nets:make", "--family", "proggan"),
            "has its own network, and --module names another",
        ),
        (("net.safetensors", "--module", "nets"), "model.module"),
        (("model.yaml", "--count", 2000), "from 1 to 1024"),
    ],
)
def test_what_cannot_be_sampled(arguments: tuple[object, ...], message: str) -> None:
    result = run("sample", *arguments, "-o", "a.png")
    assert (result.exit_code != 0, message in result.stderr) == (True, True), result.stderr
    assert not Path("a.png").exists()


def test_a_foreign_file_is_left_as_it_is() -> None:
    Path("a.png").write_bytes(b"mine")
    result = run("sample", "builtin:skyline", "-o", "a.png", "--count", 1)
    assert result.exit_code == 1
    assert Path("a.png").read_bytes() == b"mine"


@pytest.mark.parametrize("end", ["", "edits: []\n", "edits:\n"])
def test_a_spec_without_edits_names_a_model(end: str) -> None:
    Path("model.yaml").write_text(Path("model.yaml").read_text() + end)
    assert run("validate", "model.yaml").exit_code == 0
    listed = said("inspect", "model.yaml", "--allow-code")
    assert (listed["edits"], listed["layers"][0]["layer"]) == ([], "0")
    assert run("render", "model.yaml", "-o", "r.png", "--allow-code").exit_code == 0
    with Image.open("r.png") as picture:
        assert picture.size == (GAP + 8 * STEP, GAP + 2 * STEP)
    place = ("--latent", 3, "--mask", "{box: [1, 1, 5, 5]}", "--layer", "3")
    found = said("search", "model.yaml", *place, "--images", 20, "--allow-code")
    assert (found["layer"], len(found["matches"])) == ("3", 12)


COMMANDS = (
    ("build", "-o", "out"),
    ("compile", "-o", "out"),
    ("check",),
    ("lock",),
    ("lock", "--check"),
    ("plan",),
    ("statistics",),
    ("compare-layers",),
    ("blame", "-o", "out", "--latent", "1"),
    ("bisect", "--measure", "trace", "--latent", "1", "--at-most", "0.1"),
    ("sweep", "-o", "out"),
    ("render", "--key", "-o", "r.png"),
    ("render", "--value", "-o", "r.png"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_edits_there_is_nothing_to_build(command: tuple[str, ...]) -> None:
    name, *options = command
    result = run(name, "model.yaml", *options, "--allow-code")
    assert result.exit_code == 2
    assert "this spec has no edits, so that there is nothing to build" in result.stderr
    assert "sample" in result.stderr
    assert not Path("model.yaml.lock").exists()
    assert not Path("out").exists()


EDIT = {
    "name": "e",
    "layer": "3",
    "source": {"latent": 1, "mask": {"box": [0, 0, 4, 4]}},
    "target": {"latent": 2, "mask": {"box": [0, 0, 4, 4]}},
    "solver": {"method": "direct", "steps": 3},
}


def test_every_command_that_opens_the_model_of_a_spec_may_be_allowed_code() -> None:
    content = yaml.safe_load(Path("model.yaml").read_text())
    Path("spec.yaml").write_text(
        yaml.safe_dump({**content, "statistics": {"samples": 50}, "edits": [EDIT]})
    )
    patch = said("build", "spec.yaml", "-o", "out", "--allow-code")["edits"][0]["patch"]
    for command in (
        ("compose", patch, "-o", "one.safetensors", "--rank", 1, "--spec", "spec.yaml"),
        ("rebase", patch, "--model", "net.safetensors", "-o", "new", "--spec", "spec.yaml"),
        ("sweep", "spec.yaml", "-o", "swept", "--images", 8),
    ):
        refused = run(*command)
        assert (refused.exit_code, "--allow-code" in refused.stderr) == (1, True), refused.stderr
        allowed = run(*command, "--allow-code")
        assert allowed.exit_code == 0, allowed.stderr


def test_the_studio_writes_a_new_spec_of_a_network_from_code() -> None:
    with editspec.allow_code():
        text = new_spec("net.safetensors", Path("new.yaml").absolute(), "nets:make")
    model = parse(text).data["model"]
    assert model == {"family": "torch", "weights": "net.safetensors", "module": "nets:make"}
    assert parse(text).data["edits"][0]["layer"] in ("0", "3")


def test_the_first_edit_of_a_spec_without_any() -> None:

    before = Path("model.yaml").read_text()
    for text in (before, before + "edits:\n", before + "edits: []\n"):
        data = parse(add_edit(text, "model.yaml", dict(EDIT))).data
        assert data["edits"] == [EDIT]
        assert data["model"]["module"] == "nets:make"
    assert json.loads(add_edit('{"version": 1}', "m.json", {"name": "e"}))["edits"] == [
        {"name": "e"}
    ]
