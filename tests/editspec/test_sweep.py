from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from editspec.cli.main import app
from editspec_compiler import load

SPEC = """\
# What this is for.
version: 1
model: {{family: stylegan2, weights: {weights}}}
statistics: {{samples: 32}}
edits:
  - name: other
    layer: layer4
    source: {{latent: 5, mask: {{box: [4, 4, 20, 20]}}}}
    target: {{latent: 6, mask: {{box: [4, 4, 20, 20]}}}}
    solver: {{method: direct, steps: 5}}
  - name: swept   # and this
    layer: layer5
    source: {{latent: 1, mask: {{union: ["masks/a.png", {{box: [4, 4, 20, 20]}}]}}}}
    target: {{latent: 2, mask: masks/a.png}}
    context: [{{latent: 2, mask: masks/a.png}}, {{latent: 3, mask: {{box: [4, 4, 20, 20]}}}}]
    solver: {{method: direct, steps: 5}}
"""


@pytest.fixture
def spec(make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path) -> Path:
    from PIL import Image, ImageDraw

    folder = tmp_path / "here"
    (folder / "masks").mkdir(parents=True)
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).rectangle((8, 8, 20, 20), fill=255)
    image.save(folder / "masks" / "a.png")
    save_file(make_tiny(), folder / "tiny.safetensors")
    (folder / "spec.yaml").write_text(SPEC.format(weights="tiny.safetensors"))
    return folder / "spec.yaml"


def swept(spec: Path, out: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(
        app, ["sweep", str(spec), "-o", str(out), "--images", "8", "--json", *arguments]
    )
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_every_layer_and_rank_is_tried_and_the_winner_is_a_spec(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deeper"
    found = swept(spec, out, "--layers", "layer6,layer7", "--ranks", "1,2")
    assert [(p["layer"], p["rank"]) for p in found["points"]] == [
        ("layer6", 1),
        ("layer6", 2),
        ("layer7", 1),
        ("layer7", 2),
    ]
    assert all(point["outside"] > 0 for point in found["points"])
    assert all(point["independent"] > 0 and point["correlated"] > 0 for point in found["points"])
    assert -1 <= found["agreement"]["correlated"] <= 1
    winner = load(out / "winner.yaml")
    assert winner.spec.edits[-1].layer == found["winner"]["layer"]
    assert winner.spec.edits[-1].rank == found["winner"]["rank"]
    assert winner.spec.edits[0] == load(spec).spec.edits[0]
    text = (out / "winner.yaml").read_text()
    assert "# What this is for." in text
    assert "# and this" in text
    assert (out / "sweep.png").exists()
    assert (out / "sweep.md").read_text().count("winner") == 1
    built = CliRunner().invoke(
        app, ["build", str(out / "winner.yaml"), "-o", str(tmp_path / "built"), "--json"]
    )
    assert built.exit_code == 0, built.stderr


def test_what_cannot_be_built_is_a_row_with_its_reason(spec: Path, tmp_path: Path) -> None:
    found = swept(spec, tmp_path / "out", "--ranks", "1,5000")
    assert "efficacy" in found["points"][0]
    assert "rank 5000 is more than" in found["points"][1]["problem"]
    assert found["winner"]["rank"] == 1


def test_a_perfect_edit_judges_on_skyline(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        SPEC.format(weights="'builtin:skyline'").replace("masks/a.png", "a.png")
    )
    from PIL import Image

    Image.new("L", (64, 64), 255).save(tmp_path / "a.png")
    found = swept(
        tmp_path / "spec.yaml", tmp_path / "out", "--ranks", "1,2", "--experiment", "dome-to-spire"
    )
    best = min(found["points"], key=lambda point: point["error"])
    assert found["winner"] == {"layer": best["layer"], "rank": best["rank"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "laier6"], "There is no laier6"),
        (["--ranks", "1,x"], "whole numbers from 1"),
        (["--ranks", "0"], "whole numbers from 1"),
        (["--experiment", "dome-to-moon"], "There is no experiment dome-to-moon"),
        (["--experiment", "dome-to-spire"], "known for builtin:skyline only"),
        (["--ranks", "5000"], "No layer and rank of the sweep can be built"),
    ],
)
def test_bad_input(arguments: list[str], message: str, spec: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["sweep", str(spec), "-o", str(tmp_path / "out"), "--images", "8", *arguments]
    )
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_folder_of_somebody_else_is_left_alone(spec: Path) -> None:
    before = sorted(spec.parent.iterdir())
    result = CliRunner().invoke(app, ["sweep", str(spec), "-o", str(spec.parent), "--images", "8"])
    assert result.exit_code == 1
    assert sorted(spec.parent.iterdir()) == before
