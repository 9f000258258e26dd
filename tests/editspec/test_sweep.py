from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.worlds.skyline.world import LATENT_SIZE, render, scenes
from editspec_compiler import load
from editspec_compiler.document import parse
from editspec_runtime.core.progress import no_progress
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import run, said

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
    folder = tmp_path / "here"
    (folder / "masks").mkdir(parents=True)
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).rectangle((8, 8, 20, 20), fill=255)
    image.save(folder / "masks" / "a.png")
    save_file(make_tiny(), folder / "tiny.safetensors")
    (folder / "spec.yaml").write_text(SPEC.format(weights="tiny.safetensors"))
    return folder / "spec.yaml"


def swept(spec: Path, out: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = said("sweep", spec, "-o", out, "--images", 8, *arguments)
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
    assert said("build", out / "winner.yaml", "-o", tmp_path / "built")["edits"]


def test_traces_of_a_sweep_are_those_of_the_check(spec: Path, tmp_path: Path) -> None:
    # With the images of sweeps as its own, a check can name them.
    text = spec.read_text().replace("statistics:", "latents: {seed: 4}\nstatistics:")
    spec.write_text(text.replace("steps: 5", "steps: 60, learning_rate: 0.2"))
    found = swept(spec, tmp_path / "out", "--layers", "layer6,layer7")
    assert "trace-" not in (tmp_path / "out" / "sweep.md").read_text()
    shares = []
    for point in found["points"]:
        check = {"measure": "trace", "edit": "swept", "at_most": 1}
        check["images"] = [{"latents": list(range(8))}]
        text = spec.read_text().replace("layer: layer5", f"layer: {point['layer']}")
        other = spec.with_name("other.yaml")
        other.write_text(text + f"checks: [{json.dumps(check)}]\n")
        (row,) = said("check", other)["checks"]
        assert point["trace"] == row["value"]
        assert point["intervals"]["trace"] == row["facts"]["intervals"]["trace"]
        thresholds = row["facts"]["thresholds"]
        assert {each: point[f"trace-{each}"] for each in thresholds} == thresholds
        shares += thresholds.values()
    assert 0 < sum(shares) < len(shares)


def test_a_json_spec_that_is_indented_by_tabs_is_swept(spec: Path, tmp_path: Path) -> None:
    data = parse(spec.read_text()).data
    tabbed = spec.with_suffix(".json")
    tabbed.write_text(json.dumps(data, indent="\t"))
    found = swept(tabbed, tmp_path / "out", "--ranks", "2")
    assert found["winner"]["rank"] == 2
    winner = load(tmp_path / "out" / "winner.json")
    assert winner.document.text.count("\n\t") == tabbed.read_text().count("\n\t") + 1
    assert winner.spec.edits[-1].rank == 2
    assert winner.spec.edits[0] == load(tabbed).spec.edits[0]


@pytest.mark.parametrize("layers", ["layer6", "layer4,layer6"])
def test_a_spec_that_cannot_be_rewritten_is_refused_before_the_work(
    layers: str, spec: Path, tmp_path: Path
) -> None:
    text = spec.read_text().replace("layer: layer4", "layer: &l layer4")
    spec.write_text(text.replace("layer: layer5", "layer: *l"))
    result = run("sweep", spec, "-o", tmp_path / "out", "--layers", layers)
    assert result.exit_code == 2
    assert "does not let these values be changed" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_built_is_a_row_with_its_reason(spec: Path, tmp_path: Path) -> None:
    found = swept(spec, tmp_path / "out", "--ranks", "1,5000")
    assert "efficacy" in found["points"][0]
    assert "rank 5000 is more than" in found["points"][1]["problem"]
    assert found["winner"]["rank"] == 1


def test_a_perfect_edit_judges_on_skyline(tmp_path: Path) -> None:
    """The errors of a sweep are those of the built models, compared with rendered scenes here."""
    text = SPEC.format(weights="'builtin:skyline'").replace("masks/a.png", "a.png")
    (tmp_path / "spec.yaml").write_text(text)
    Image.new("L", (64, 64), 255).save(tmp_path / "a.png")
    asked = ("--ranks", "1,8", "--experiment", "dome-to-spire")
    found = swept(tmp_path / "spec.yaml", tmp_path / "out", *asked)
    expected = {}
    for point in found["points"]:
        edited = tmp_path / f"rank{point['rank']}.yaml"
        edited.write_text(
            text.replace("layer: layer5", f"layer: layer5\n    rank: {point['rank']}")
        )
        expected[point["rank"]] = error_by_hand(edited)
    assert {p["rank"]: p["error"] for p in found["points"]} == pytest.approx(expected, rel=1e-4)
    assert abs(expected[1] - expected[8]) > 1e-3 * expected[1]  # there is something to choose
    traces = {point["rank"]: point["trace"] for point in found["points"]}
    best = min(expected, key=lambda rank: expected[rank] * (1 + traces[rank]))
    assert found["winner"] == {"layer": "layer5", "rank": best}


def error_by_hand(spec: Path) -> float:
    """The distance of a built model to the perfect edit where it changes pixels, plus the change
    of all other pixels."""
    session = BuildSession.of(spec, "cpu", no_progress)
    latents = LatentStream(4, LATENT_SIZE).items(range(8))
    before = generator_of(session).images(latents).clamp(-1, 1)
    for number in range(2):
        session.edit(number)
    after = generator_of(session).images(latents).clamp(-1, 1)
    scene = scenes(latents)
    original, perfect = render(scene), render(scene.with_tops("dome", "spire"))
    asked = (perfect - original).abs().mean(1) > 0.1
    distance = (after - perfect).abs().mean(1)[asked].mean()
    outside = (after - before).abs().mean(1)[~asked].mean()
    return float(distance + outside)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "laier6"], "There is no laier6"),
        (["--ranks", "1,x"], "whole numbers from 1"),
        (["--ranks", "0"], "whole numbers from 1"),
        (["--experiment", "dome-to-moon"], "There is no experiment dome-to-moon"),
        (
            ["--experiment", "dome-to-spire"],
            "known for builtin:skyline and builtin:skyline-plain only",
        ),
        (["--ranks", "5000"], "No layer and rank of the sweep can be built"),
    ],
)
def test_bad_input(arguments: list[str], message: str, spec: Path, tmp_path: Path) -> None:
    result = run("sweep", spec, "-o", tmp_path / "out", "--images", "8", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_folder_of_somebody_else_is_left_alone(spec: Path) -> None:
    before = sorted(spec.parent.iterdir())
    result = run("sweep", spec, "-o", spec.parent, "--images", "8")
    assert result.exit_code == 1
    assert sorted(spec.parent.iterdir()) == before
