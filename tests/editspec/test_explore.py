"""Searching for images that match, and comparing layers, on models where the answer is known."""

from __future__ import annotations

import json
import runpy
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
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.maths.retrieval import search, share_above
from editspec_runtime.modalities.image.compatibility import EDITSPEC, REWRITING_2020
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.modalities.image.maps import Box
from editspec_runtime.modalities.image.retrieval import box_around_peak, find_place
from tests.commands import run, said

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
    sample = LatentSample(stream, 40)
    direction = torch.nn.functional.normalize(
        torch.randn(1, 6, generator=torch.Generator().manual_seed(2)).double()
    )
    found = search(model, "layer5", direction, sample, 5, EDITSPEC)
    best = []
    for number in range(40):
        key = model.trace("layer5", stream.items([number])).key[0].double()
        best.append(float((direction[0] @ key.flatten(1)).max()))
    assert [match.item for match in found] == sorted(range(40), key=lambda n: -best[n])[:5]
    assert [match.score for match in found] == pytest.approx(
        sorted(best, reverse=True)[:5], rel=1e-5
    )
    for match in found:
        scores = torch.einsum(
            "ihw,i->hw",
            model.trace("layer5", stream.items([match.item])).key[0].double(),
            direction[0],
        )
        row, column = divmod(int(scores.argmax()), scores.shape[1])
        place = find_place(match.responses, model.layer("layer5"))
        assert place.top <= row < place.bottom
        assert place.left <= column < place.right
    share = share_above(model, "layer5", direction, found[4].score, sample, EDITSPEC)
    assert 5 / (40 * 64) <= share < 0.1
    assert share_above(model, "layer5", direction, -1e9, sample, EDITSPEC) == 1.0


def test_a_key_is_the_authors(
    golden: dict[str, dict[str, Tensor]], record: dict[str, Any], tmp_path: Path
) -> None:
    """C^-1 of the mean key of the query, normalised: what their interface searches with."""
    from editspec_compiler.modalities.image.context import select_keys
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
    model = StyleGAN2(weights, compatibility=REWRITING_2020)
    assert loaded.spec.edits[0].query is not None
    keys, counts = select_keys(loaded, 0, model, loaded.spec.edits[0].query, "query")
    found = mean_direction(stages["L8.C.batch10"], keys, counts)
    assert (found[0] - wanted.flatten()).norm() < 1e-10


def test_the_selection_itself_matches_best(spec: dict[str, Any]) -> None:
    found = editspec.search(written(spec), out=Path("sheet.png"), images=30, count=4).to_dict()
    # A selection in the stream that is searched is among what matches it.
    assert 7 in [match["latent"] for match in found["matches"]]
    assert [match["score"] for match in found["matches"]] == sorted(
        (m["score"] for m in found["matches"]), reverse=True
    )
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 4 * 128
    # The entries are ready to be context.
    spec["edits"][0]["context"] = [match["context"] for match in found["matches"]]
    assert len(editspec.compile(written(spec)).edits[0].rules[0].context_keys) > 4
    # With a query, that is what is searched for.
    other = {"latent": 12, "mask": {"box": [20, 2, 30, 12]}}
    spec["edits"][0]["query"] = other
    assert (
        editspec.search(written(spec), images=30, count=4).to_dict()["matches"] != found["matches"]
    )


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
    alone = said("search", *asked, "--images", 30, "--count", 3)
    spec["statistics"] = {"samples": 1000}
    same = said("search", written(spec), "--images", 30, "--count", 3)
    assert alone["matches"] == same["matches"]
    entries = yaml.safe_load(run("search", "spec.yaml", "--images", 30, "--count", 3).stdout)
    assert entries == [match["context"] for match in alone["matches"]]
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
        (("compare-layers", "spec.yaml", "--edit", "f"), 2, "there is no edit f"),
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
    rows = {
        row["layer"]: row
        for row in editspec.compare_layers(written(spec), images=30).to_dict()["layers"]
    }
    assert list(rows) == [f"layer{n}" for n in range(2, 9)]
    assert rows["layer6"]["context 0"] < 0.07  # 16 of 256 positions are the middle
    assert rows["layer4"]["context 0"] > 2 * rows["layer6"]["context 0"]
    table = run("compare-layers", "spec.yaml", "--images", 30).stdout
    assert table.splitlines()[0].split("  ")[0] == "layer"
    assert len(table.splitlines()) == 8


def test_a_box_of_positions_is_the_region_around_the_peak() -> None:
    scores = torch.zeros(5, 6)
    scores[1, 1:3] = torch.tensor([4.0, 2.0])
    scores[4, 5] = 3.9  # as high, and not connected
    assert box_around_peak(scores) == Box(1, 1, 2, 3)
    assert box_around_peak(-torch.ones(2, 2)) == Box(0, 0, 2, 2)


ROWS = '''
from torch import nn


class Rows(nn.Module):
    """Positions, to each of which the same linear layer is applied, and an image of 8 pixels."""

    latent_size = 6

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(6, 4 * {positions})
        self.row = nn.{row}
        self.end = nn.Linear(3 * {positions}, 192)

    def forward(self, latents):
        rows = self.row(self.start(latents).reshape({shape})).flatten(1)
        return self.end(rows).reshape(-1, 3, 8, 8)
'''
KINDS = {
    "linear": ("Linear(4, 3)", "-1, 8, 4"),
    "convolution": ("Conv1d(4, 3, 1)", "-1, 4, 8"),
    "wide convolution": ("Conv1d(4, 3, 3, padding=1)", "-1, 4, 8"),
    "convolution of planes": ("Conv2d(4, 3, 1)", "-1, 4, 1, 8"),
    "transposed convolution": ("ConvTranspose2d(4, 3, 1)", "-1, 4, 1, 8"),
}
OTHER_SIZES = {
    "fewer positions than pixels": ("Linear(4, 3)", "-1, 5, 4", 5),
    "more positions than pixels": ("Conv1d(4, 3, 1)", "-1, 4, 40", 40),
    "hardly more positions than pixels": ("Linear(4, 3)", "-1, 13, 4", 13),
    "a map that is finer than the image": ("Conv2d(4, 3, 1)", "-1, 4, 20, 20", 400),
}


def write_rows(row: str, shape: str, positions: int) -> dict[str, Any]:
    """Write a module of `ROWS` with weights into the working folder; return a spec of it."""
    Path("rows.py").write_text(ROWS.format(row=row, shape=shape, positions=positions))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_file(runpy.run_path("rows.py")["Rows"]().state_dict(), "rows.safetensors")
    place = {"latent": 7, "mask": {"box": [2, 0, 5, 8]}}
    edit = {"name": "e", "layer": "row", "source": place, "target": place}
    return {
        "version": 1,
        "model": {"family": "torch", "module": "rows:Rows", "weights": "rows.safetensors"},
        "statistics": {"samples": 32},
        "edits": [edit | {"solver": {"method": "direct", "steps": 3}}],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_in_a_row_counts_in_full(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context that `search` proposes is about keys of the row, each of which counts once."""
    monkeypatch.chdir(tmp_path)
    row, shape = KINDS[kind]
    spec = write_rows(row, shape, 8)
    with editspec.allow_code():
        matches = editspec.search(written(spec), images=30, count=4).to_dict()["matches"]
        spec["edits"][0]["context"] = [match["context"] for match in matches]
        (rule,) = editspec.compile(written(spec)).edits[0].rules
    assert len(rule.context_keys) >= len(matches)
    assert rule.context_weights.tolist() == [1.0] * len(rule.context_keys)


@pytest.mark.parametrize("kind", OTHER_SIZES)
def test_what_is_found_is_covered_where_positions_are_no_pixels(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak of each match counts in full, however large a position is in pixels."""
    monkeypatch.chdir(tmp_path)
    spec = write_rows(*OTHER_SIZES[kind])
    with editspec.allow_code():
        for match in editspec.search(written(spec), images=30, count=4).to_dict()["matches"]:
            spec["edits"][0]["context"] = [match["context"]]
            (rule,) = editspec.compile(written(spec)).edits[0].rules
            assert float(rule.context_weights.max()) == 1.0
