"""``editspec tune``: what is found for an edit, and what is said where nothing can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec.engine import tuning
from editspec.engine.attempts import MARGIN, Trial, pick
from editspec.engine.trials import Judgement
from editspec.modalities.image.likeness import find_nearest, split_in_two, spread
from editspec.modalities.image.slots import Slot, halve_pair, halve_slots, move_box
from editspec_compiler import load
from editspec_compiler.modalities.image.places import Resolver
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.maps import Box
from tests.commands import contents, run, said

SPEC = """\
# What this is for.
version: 1
model: {family: stylegan2, weights: tiny.safetensors}
statistics: {samples: 32}
edits:
  - name: other
    layer: layer4
    source: {latent: 5, mask: {box: [4, 4, 20, 20]}}
    target: {latent: 6, mask: {box: [4, 4, 20, 20]}}
    solver: {method: direct, steps: 2}
  - name: tuned   # and this
    layer: layer5
    source: {latent: 1, mask: {box: [4, 4, 20, 20]}}
    # the place
    target: {latent: 2, mask: {box: [4, 4, 20, 20]}}
    context: [{latent: 2, mask: {box: [4, 4, 20, 20]}}, {latent: 3, mask: {box: [12, 4, 28, 20]}}]
    preserve: [{latent: 7}]
    solver: {method: direct, steps: 2}
"""
QUICK = ("--images", 32, "--rounds", 1, "--layers", "layer6")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "REFINED_STEPS", 2)


@pytest.fixture
def spec(make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    save_file(make_tiny(), folder / "tiny.safetensors")
    (folder / "spec.yaml").write_text(SPEC)
    return folder / "spec.yaml"


def test_what_is_found_is_a_spec_that_builds(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deeper"
    found = said("tune", spec, "-o", out, "--edit", "tuned", *QUICK)
    tuned = load(out / "tuned.yaml")
    other, edit = tuned.spec.edits
    assert other == load(spec).spec.edits[0]
    assert (edit.layer, edit.rank) == (found["picked"]["layer"], found["picked"]["rank"])
    assert len(edit.pairs) == found["examples"] > 1
    assert edit.pairs[0].source.latent == 1
    assert 7 in [place.latent for place in edit.preserve]
    assert len(edit.preserve) == found["preserved"] > 1
    assert edit.context == load(spec).spec.edits[1].context
    text = (out / "tuned.yaml").read_text()
    for comment in ("# What this is for.", "# and this", "# the place", "# Tuned on 8 images"):
        assert comment in text
    assert found["given"]["efficacy"] < found["picked"]["efficacy"]
    page = (out / "tune.html").read_text()
    assert "data:image/png" in page
    assert "Round 1" in page
    refined = [trial["refine"] for trial in found["trials"] if trial["stage"] == "refined"]
    assert refined == [{"steps": 2, "weight": weight} for weight in tuning.REFINED_WEIGHTS]
    assert said("build", out / "tuned.yaml", "-o", tmp_path / "built")["edits"]
    before = contents(out)
    # The same again gives the same bytes.
    assert run("tune", spec, "-o", out, "--edit", "tuned", *QUICK).exit_code == 0
    assert contents(out) == before


def test_no_round_preserves_no_more_than_given_and_first(spec: Path, tmp_path: Path) -> None:
    found = said("tune", spec, "-o", tmp_path / "out", *QUICK[:2], "--rounds", 0, *QUICK[4:])
    assert found["edit"] == "other"
    assert not [trial for trial in found["trials"] if trial["stage"].startswith("round")]


@pytest.mark.parametrize(
    ("old", "new", "said_of_it"),
    [
        ("source: {latent: 1, mask: {box: [4, 4, 20, 20]}}", "source: {erase: {units: 2}}", "eras"),
        ("source: {latent: 1,", "source: {latent: 1, intervene: INTERVENE,", "intervention"),
    ],
)
def test_edits_without_images_like_them_are_refused(
    spec: Path, tmp_path: Path, old: str, new: str, said_of_it: str
) -> None:
    change = "{layer: layer4, units: [0], value: 0, mask: {box: [4, 4, 20, 20]}}"
    spec.write_text(SPEC.replace(old, new.replace("INTERVENE", change)))
    result = run("tune", spec, "-o", tmp_path / "out", "--edit", "tuned", *QUICK)
    assert result.exit_code == 2
    assert said_of_it in result.stderr
    assert "edits[1].source" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_tuned_is_said_before_the_work(spec: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    result = run("tune", spec, "-o", foreign, *QUICK)
    assert result.exit_code == 2 or result.exit_code == 1
    assert "no tuning of editspec made it" in result.stderr
    assert [path.name for path in foreign.iterdir()] == ["mine.txt"]
    result = run("tune", spec, "-o", tmp_path / "out", "--layers", "layer2,layer6")
    assert result.exit_code == 2
    assert "layer2" in result.stderr
    assert "layer6" in result.stderr.split("hint")[1]
    result = run("tune", spec, "-o", tmp_path / "out", "--edit", "tund")
    assert result.exit_code == 2
    assert 'did you mean "tuned"' in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_json_spec_stays_json(spec: Path, tmp_path: Path) -> None:
    given = load(spec).document.data
    given["edits"] = given["edits"][1:]
    place = spec.with_suffix(".json")
    place.write_text(json.dumps(given))
    found = said("tune", place, "-o", tmp_path / "out", *QUICK[:2], "--rounds", 0, *QUICK[4:])
    assert found["spec"] == "tuned.json"
    assert load(tmp_path / "out" / "tuned.json").spec.edits[0].pairs


def test_places_are_cut_in_two_of_one_size_and_pairs_with_them(spec: Path) -> None:
    wide, high = Box(5, 7, 29, 57), Box(0, 8, 24, 16)
    halves = [half.box for half in halve_slots([Slot({}, wide), Slot({}, high)], 4)]
    assert halves[:2] == [Box(5, 7, 29, 31), Box(5, 33, 29, 57)]
    assert halves[2:] == [Box(0, 8, 12, 16), Box(12, 8, 24, 16)]
    assert not halve_slots([Slot({}, Box(0, 0, 6, 6))], 4)
    loaded = load(spec)
    model = StyleGAN2(load_file(spec.parent / "tiny.safetensors"))
    (pair, path), *_ = Resolver(loaded, model, 1).sides()
    left, right = halve_pair(Resolver(loaded, model, 1), pair, path, 4)
    assert left["source"] == {"latent": 1, "mask": {"box": [4, 4, 12, 20]}}
    assert right["target"] == {"latent": 2, "mask": {"box": [12, 4, 20, 20]}}
    # A source of another size has no halves that belong to those of the target.
    spec.write_text(
        SPEC.replace(
            "source: {latent: 1, mask: {box: [4, 4, 20", "source: {latent: 1, mask: {box: [4, 4, 16"
        )
    )
    loaded = load(spec)
    (pair, path), *_ = Resolver(loaded, model, 1).sides()
    assert not halve_pair(Resolver(loaded, model, 1), pair, path, 4)


def trial(efficacy: float, trace: float) -> Trial:
    return Trial("last", {"rank": 1}, Judgement(efficacy, trace))


def test_the_pick_weighs_efficacy_against_trace() -> None:
    given = trial(0.6, 0.9)
    strong, clean, weak = trial(0.9, 0.8), trial(0.8, 0.1), trial(0.5, 0.0)
    assert pick([strong, clean, weak], given) is clean
    # Less efficacy than the given edit has is no bargain, however clean it is.
    assert pick([strong, weak], given) is strong
    assert pick([trial(0.6 - MARGIN - 0.01, 0.0), weak], given).judgement.efficacy > 0.5  # type: ignore[union-attr]


def test_numbers_split_where_the_gap_is() -> None:
    numbers = torch.tensor([0.1, 3.0, 0.2, 2.9, 0.0, 3.1])
    split = split_in_two(numbers)
    assert 0.2 < split.threshold < 2.9
    assert split.clearness > 0.99
    assert split_in_two(torch.arange(100.0)).clearness < 0.8
    assert split_in_two(torch.ones(5)).clearness == 0


def test_the_nearest_picture_is_the_one_alike_around_the_place() -> None:
    area = torch.zeros(16, 16, dtype=torch.bool)
    area[4:8, 4:8] = True
    picture = torch.zeros(3, 16, 16)
    inside, around, far = torch.zeros(3, 3, 16, 16)
    inside[:, area] = 1
    around[:, 3, 4:8] = 0.5
    far[:, 15, 15] = 1
    order = find_nearest(picture, torch.stack([around, inside, far]), area)
    assert order[-1] == 0
    assert spread(list(range(10)), 3) == [0, 3, 6]
    assert spread([4, 5], 3) == [4, 5]


def test_places_move_by_whole_strides_within_the_picture() -> None:
    box = Box(4, 4, 20, 20)
    assert move_box(box, Box(12, 13, 28, 31), 8, 32) == Box(12, 12, 28, 28)
    assert move_box(box, Box(30, 30, 32, 32), 8, 32) == Box(12, 12, 28, 28)
    assert move_box(box, box, 8, 32) == box


def test_an_edit_that_is_best_as_it_is_stays(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = lambda self, model: Judgement(1.0, 0.0)  # noqa: E731
    monkeypatch.setattr("editspec.modalities.image.trial_judge.TrialJudge.__call__", judge)
    quick = ("--images", 16, "--rounds", 0, "--layers", "layer6")
    found = said("tune", spec, "-o", tmp_path / "out", "--edit", "tuned", *quick)
    assert found["picked"]["stage"] == "given"
    assert load(tmp_path / "out" / "tuned.yaml").spec.edits == load(spec).spec.edits
