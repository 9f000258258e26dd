"""Searching for images that match, and comparing layers, on models where the answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec.modalities.image.explore import compare_layers, search_images
from editspec_runtime.core.compatibility import EDITSPEC, REWRITING_2020
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.maths.retrieval import exceeding, search
from editspec_runtime.modalities.image.generator import Box
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import run

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def spec(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    save_file(make_tiny(), tmp_path / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    place = {"latent": 7, "mask": {"box": [8, 8, 20, 20]}}
    edit = {
        "name": "e",
        "layer": "layer6",
        "source": place,
        "target": place,
        "solver": {"method": "direct", "steps": 9},
    }
    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 32},
        "edits": [edit],
    }


def written(spec: dict[str, Any]) -> str:
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    return "spec.yaml"


def test_matches_are_those_of_a_plain_loop(make_tiny: Callable[..., dict[str, Tensor]]) -> None:
    model, stream = StyleGAN2(make_tiny()), LatentStream(1, 8)
    direction = torch.nn.functional.normalize(
        torch.randn(1, 6, generator=torch.Generator().manual_seed(2)).double()
    )
    found = search(model, "layer5", direction, stream, 40, 5, EDITSPEC)
    best = []
    for number in range(40):
        key = model.prefix("layer5", stream.items([number])).key[0].double()
        best.append(float((direction[0] @ key.flatten(1)).max()))
    assert [match.latent for match in found] == sorted(range(40), key=lambda n: -best[n])[:5]
    assert [match.score for match in found] == pytest.approx(
        sorted(best, reverse=True)[:5], rel=1e-5
    )
    for match in found:
        scores = torch.einsum(
            "ihw,i->hw",
            model.prefix("layer5", stream.items([match.latent])).key[0].double(),
            direction[0],
        )
        row, column = divmod(int(scores.argmax()), scores.shape[1])
        assert match.place.top <= row < match.place.bottom
        assert match.place.left <= column < match.place.right
    share = exceeding(model, "layer5", direction, found[4].score, stream, 40, EDITSPEC)
    assert 5 / (40 * 64) <= share < 0.1
    assert exceeding(model, "layer5", direction, -1e9, stream, 40, EDITSPEC) == 1.0


def test_a_key_is_the_authors(
    golden: dict[str, dict[str, Tensor]], record: dict[str, Any], tmp_path: Path
) -> None:
    """C^-1 of the mean key of the query, normalised: what their interface searches with."""
    from editspec_compiler.modalities.image.resolve import selected
    from editspec_runtime.maths.directions import mean_direction

    stages, wanted = golden["sg2_stages_f64"], golden["sg2_query_f64"]["L8.querykey"]
    query = {"latent": record["record"]["query"][0], "mask": record["record"]["query"][1]}
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": str(GOLDEN / "sg2_g_ema.safetensors")},
        "latents": {"sampler": "numpy-legacy"},
        "precision": "float64",
        "compatibility": "rewriting-2020",
        "edits": [
            {"name": "q", "layer": "layer8", "source": query, "target": query, "query": query}
        ],
    }
    (tmp_path / "q.json").write_text(json.dumps(spec))
    loaded = editspec.load(tmp_path / "q.json")
    weights = {
        name: tensor.double()
        for name, tensor in load_file(GOLDEN / "sg2_g_ema.safetensors").items()
    }
    model = StyleGAN2(weights, conventions=REWRITING_2020)
    assert loaded.spec.edits[0].query is not None
    keys, counts = selected(loaded, 0, model, loaded.spec.edits[0].query, "query")
    found = mean_direction(stages["L8.C.batch10"], keys, counts)
    assert (found[0] - wanted.flatten()).norm() < 1e-10


def test_the_selection_itself_matches_best(spec: dict[str, Any]) -> None:
    found = search_images(written(spec), Path("sheet.png"), images=30, count=4)
    # A selection in the stream that is searched is among what matches it.
    assert 7 in [match["latent"] for match in found["matches"]]
    assert [match["score"] for match in found["matches"]] == sorted(
        (m["score"] for m in found["matches"]), reverse=True
    )
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 4 * 128
    # The entries are ready to be context.
    spec["edits"][0]["context"] = [match["context"] for match in found["matches"]]
    assert len(editspec.compile(written(spec))[0].context_keys) > 4
    # With a query, that is what is searched for.
    other = {"latent": 12, "mask": {"box": [20, 2, 30, 12]}}
    spec["edits"][0]["query"] = other
    assert search_images(written(spec), images=30, count=4)["matches"] != found["matches"]


def test_search_from_the_command_line(spec: dict[str, Any]) -> None:
    asked = (
        "--latent",
        7,
        "--mask",
        "{box: [8, 8, 20, 20]}",
        "--layer",
        "layer6",
        "--model",
        "tiny.safetensors",
    )
    alone = run("search", *asked, "--images", 30, "--count", 3, "--json")
    assert alone.exit_code == 0, alone.stderr
    spec["statistics"] = {"samples": 1000}
    same = run("search", written(spec), "--images", 30, "--count", 3, "--json")
    matches = [json.loads(result.stdout)["matches"] for result in (alone, same)]
    assert matches[0] == matches[1]
    entries = yaml.safe_load(run("search", "spec.yaml", "--images", 30, "--count", 3).stdout)
    assert entries == [match["context"] for match in matches[0]]
    Path("mine.png").write_text("precious")
    for arguments, code, message in (
        (("search", "--latent", 7), 2, "without a SPEC, --mask and --layer must be given"),
        (("search", "spec.yaml", "--latent", 7), 2, "exclude each other"),
        (("search", "spec.yaml", "--edit", "f"), 2, "there is no edit f"),
        (
            ("search", *asked[:2], "--mask", "{box: [8, 8, 200, 20]}", *asked[4:]),
            2,
            "lies outside of the image",
        ),
        (("search", *asked[:4], "--layer", "layer60", *asked[6:]), 2, 'did you mean "layer6"'),
        (("search", "spec.yaml", "-o", "mine.png"), 1, "is in the way"),
        (("layers", "spec.yaml", "--edit", "f"), 2, "there is no edit f"),
    ):
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert Path("mine.png").read_text() == "precious"


def test_a_layer_that_separates_is_told_from_one_that_cannot(spec: dict[str, Any]) -> None:
    """With one channel of the model made to mark the middle of the maps from layer5 on, that middle
    is told apart.
    """
    weights = load_file("tiny.safetensors")
    bump = torch.zeros(16, 16)
    bump[6:10, 6:10] = 40.0
    # The noise of layer5 is the same for every image: at its middle the keys of layer6 are like no
    # others.
    weights["noises.noise_3"] = bump[None, None]
    weights["convs.2.noise.weight"] = torch.ones(1)
    weights["convs.3.conv.modulation.weight"].zero_()
    save_file(weights, "marked.safetensors")
    spec["model"]["weights"] = "marked.safetensors"
    middle = {"latent": 7, "mask": {"box": [12, 12, 20, 20]}}
    spec["edits"][0] |= {
        "source": middle,
        "target": middle,
        "context": [middle, {**middle, "latent": 9}],
    }
    rows = {row["layer"]: row for row in compare_layers(written(spec), images=30)["layers"]}
    assert list(rows) == [f"layer{n}" for n in range(2, 9)]
    assert rows["layer6"]["context 0"] < 0.07  # 16 of 256 positions are the middle
    assert rows["layer4"]["context 0"] > 2 * rows["layer6"]["context 0"]
    table = run("layers", "spec.yaml", "--images", 30).stdout
    assert table.splitlines()[0].split("  ")[0] == "layer"
    assert len(table.splitlines()) == 8


def test_a_box_of_positions_is_the_region_around_the_peak() -> None:
    from editspec_runtime.maths.retrieval import _around_peak

    scores = torch.zeros(5, 6)
    scores[1, 1:3] = torch.tensor([4.0, 2.0])
    scores[4, 5] = 3.9  # as high, and not connected
    assert _around_peak(scores) == Box(1, 1, 2, 3)
    assert _around_peak(-torch.ones(2, 2)) == Box(0, 0, 2, 2)
