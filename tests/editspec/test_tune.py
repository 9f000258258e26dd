"""``editspec tune``: what is found for an edit, and what is said where nothing can be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec.engine import attempts, tuning
from editspec.engine.at_edit import open_at_edit
from editspec.engine.attempts import BARGAIN, MARGIN, Trial, pick
from editspec.engine.trials import Judgement
from editspec.engine.tuning import TuningRun
from editspec.modalities.image import engine as image_engine
from editspec.modalities.image import tuner as image_tuner
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.likeness import (
    find_nearest,
    scan,
    split_in_two,
    spread,
    tell_apart,
)
from editspec.modalities.image.matches import TELLING
from editspec.modalities.image.measures import efficacy
from editspec.modalities.image.slots import (
    Slot,
    edges_of,
    halve_pair,
    halve_slots,
    move_box,
    move_pair,
    tighten_slots,
)
from editspec.modalities.image.traces import find_traces
from editspec.modalities.image.tuner import ImageTuner
from editspec_compiler import load
from editspec_compiler.modalities.image.places import Resolver
from editspec_runtime.core.progress import no_progress
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.generator import require_generator
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
    monkeypatch.setattr(tuning, "REFINED", {**tuning.REFINED, "steps": 2})
    monkeypatch.setattr(tuning, "LONGER", {**tuning.LONGER, "steps": 3})


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
    assert refined[0] == {**tuning.REFINED, "weight": tuning.REFINED_WEIGHTS[0]}
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


def test_an_edit_that_asks_for_nothing_is_refused(spec: Path, tmp_path: Path) -> None:
    spec.write_text(SPEC.replace("source: {latent: 1, ", "source: {latent: 2, "))
    result = run("tune", spec, "-o", tmp_path / "out", "--edit", "tuned", *QUICK)
    assert result.exit_code == 2
    assert "edits[1].source: nothing is asked for" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_tuned_is_said_before_the_work(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    result = run("tune", spec, "-o", foreign, *QUICK)
    assert result.exit_code == 2 or result.exit_code == 1
    assert "no tuning of editspec made it" in result.stderr
    assert [path.name for path in foreign.iterdir()] == ["mine.txt"]
    result = run("tune", spec, "-o", foreign / "mine.txt/out", *QUICK)
    assert result.exit_code == 1
    assert "mine.txt is a file, and not a folder" in result.stderr
    with monkeypatch.context() as locked:  # root may write everywhere
        locked.setattr(os, "access", lambda place, kind: Path(place) != tmp_path)
        result = run("tune", spec, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 1
    assert "may not be changed" in result.stderr
    result = run("tune", spec, "-o", tmp_path / "out", "--layers", "layer99,layer6")
    assert result.exit_code == 2
    assert "layer99" in result.stderr
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
    strong, clean, weak = trial(0.9, 0.8), trial(0.8, 0.1), trial(0.4, 0.0)
    assert pick([strong, clean, weak], given) is clean
    # Much less efficacy than the given edit has is no bargain, however clean it is.
    assert pick([strong, weak], given) is strong
    # Where nothing has enough of it, what has the most is picked.
    less = trial(0.45, 0.5)
    assert pick([less, weak], given) is less


def test_what_keeps_the_efficacy_and_is_much_cleaner_goes_first() -> None:
    given, clean, cleanest = trial(0.65, 0.99), trial(0.64, 0.2), trial(0.58, 0.0)
    assert pick([given, cleanest], given) is cleanest
    assert pick([given, cleanest, clean], given) is clean


def test_a_large_trace_saved_pays_for_some_efficacy() -> None:
    given, cleaner = trial(0.694, 0.984), trial(0.579, 0.109)
    assert pick([given, cleaner], given) is cleaner
    # The trace is as good as that of the given edit, so that less efficacy is no bargain.
    assert pick([given, trial(0.579, 0.95)], given) is given
    # However clean it is, more than that is too much.
    weak = trial(0.694 - MARGIN - BARGAIN - 0.01, 0.0)
    assert pick([given, weak], given) is given


def test_where_nothing_is_clean_steps_aim_at_outputs(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "CLEAN", -1.0)
    monkeypatch.setattr(tuning, "MANY", 6)
    monkeypatch.setattr(tuning, "ON_OUTPUTS", {**tuning.ON_OUTPUTS, "steps": 2})
    quick = ("--edit", "tuned", "--images", 32, "--rounds", 2, "--layers", "layer6,layer7")
    found = said("tune", spec, "-o", tmp_path / "out", *quick)
    stages = [each["stage"] for each in found["trials"]]
    assert stages.count("round 1") == 1
    assert not {"round 2", "last", "refined"} & set(stages)
    aimed = [each for each in found["trials"] if each["stage"] == "outputs"]
    assert [each["refine"]["weight"] for each in aimed][-1] == tuning.OUTPUT_WEIGHTS[1]
    assert {each["refine"]["at"] for each in aimed} == {"output"}
    assert not any(each.get("context") for each in aimed)
    if found["picked"]["stage"] == "outputs":
        assert load(tmp_path / "out" / "tuned.yaml").spec.edits[1].refine.at == "output"


@pytest.mark.parametrize("strong", [True, False])
def test_where_nothing_is_as_strong_as_given_more_examples_are_refined(
    spec: Path, tmp_path: Path, strong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every trial is as strong, or none is.
    monkeypatch.setattr(attempts, "MARGIN", 2.0 if strong else -2.0)
    monkeypatch.setattr(attempts, "CLEANER", 1e6)
    monkeypatch.setattr(tuning, "EXAMPLES", 2)
    monkeypatch.setattr(tuning, "MANY", 6)
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)
    tuner = ImageTuner(session, number, 32, ["layer6"])
    trials = TuningRun(session, number, tuner, no_progress, named=True).tune(0).trials
    refined = [trial.fields for trial in trials if trial.stage == "refined"]
    few, *_, last = refined
    assert few["refine"] == {**tuning.REFINED, "weight": tuning.REFINED_WEIGHTS[0]}
    assert (last["refine"] == tuning.LONGER) is not strong
    assert (len(last["pairs"]) > len(few["pairs"])) is not strong
    assert (len(last["preserve"]) > len(few["preserve"])) is not strong


def test_more_images_are_looked_through_where_few_match(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_engine, "LOOKED_THROUGH", 8)
    monkeypatch.setattr(image_engine, "MOST_LOOKED_THROUGH", 16)
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)

    def look(images: int | None) -> ImageTuner:
        run = image_engine.ImageEngine().start_tuning(session, number, images, (), no_progress)
        assert isinstance(run.tuner, ImageTuner)
        return run.tuner

    tuner = look(None)
    assert tuner.is_scarce
    assert len(tuner.numbers) == 16
    assert len(look(8).numbers) == 8
    monkeypatch.setattr(image_tuner, "ENOUGH", 0)
    assert len(look(None).numbers) == 8
    layers = list(tuner.layers)
    assert tuner.output_layers(layers[1]) == layers[:2]


def test_layers_that_are_not_tried_tell_images_too(spec: Path) -> None:
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)
    tuner, whole = ImageTuner(session, number, 16, ["layer6"]), ImageTuner(session, number, 16)
    assert tuner.layers == ["layer6"]
    assert (tuner.layer, tuner.found) == (whole.layer, whole.found)
    assert tuner.layer != "layer6"


def test_what_matches_less_than_the_given_places_may_change_too(spec: Path) -> None:
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)
    tuner = ImageTuner(session, number, 16)
    tuner.matches.clearness = 0.5
    threshold = max(split.threshold for split in tuner.matches.splits)
    unclear = tuner.match.least
    del tuner.match
    tuner.matches.clearness = 0.95
    assert unclear == min(threshold, tuner.match.least)


def test_what_differs_in_places_that_match_may_change_too(spec: Path) -> None:
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)
    tuner = ImageTuner(session, number, 64)
    places = zip(tuner.found.matching, tuner.found.showing, strict=True)
    slot, (ones, others) = max(enumerate(places), key=lambda each: min(map(len, each[1])))
    assert min(len(ones), len(others)) >= TELLING
    box = tuner.slots[slot].box
    seen = torch.rand(64, 3, 32, 32, generator=torch.manual_seed(0)) / 100
    # A part of the place, and what lies outside of it.
    seen[ones, :, box.top + 4 : box.top + 8, box.left + 4 : box.left + 8] += 1
    seen[ones, :, box.bottom + 2 :] += 1
    tuner.pictures = seen
    by_key = tuner.match.find_allowed(tuner.generator, tuner.latents)
    # The part without its corners, and the pixels next to it.
    around = torch.zeros(32, 32, dtype=torch.bool)
    around[box.top + 4 : box.top + 8, box.left + 3 : box.left + 9] = True
    around[box.top + 3 : box.top + 9, box.left + 4 : box.left + 8] = True
    assert not by_key[ones][:, around].all()
    assert tuner.match_allowed[ones][:, around].all()
    # The other pixels, and the other images, change where the key matches or in another place.
    more = tuner.match_allowed & ~by_key
    assert not (more[ones] & ~around).any()
    rest = [each for each in range(64) if each not in ones]
    assert not more[rest].any()


def test_nothing_is_known_to_differ_where_images_are_few(spec: Path) -> None:
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)
    tuner = ImageTuner(session, number, 8)
    by_key = tuner.match.find_allowed(tuner.generator, tuner.latents)
    assert torch.equal(tuner.match_allowed, by_key)


@pytest.mark.parametrize(
    ("own", "named", "tried"),
    [("c", False, "cbda"), ("a", False, "abc"), ("z", False, "abcde"), ("c", True, "abcde")],
)
def test_layers_are_tried_as_long_as_they_are_better(own: str, named: bool, tried: str) -> None:
    traces = {"a": 0.9, "b": 0.2, "c": 0.5, "d": 0.6, "e": 0.0}
    edits = [SimpleNamespace(layer_names=[own])]
    loaded = SimpleNamespace(spec=SimpleNamespace(edits=edits))
    session = SimpleNamespace(loaded=loaded, executor=SimpleNamespace(workers=1))
    tuner = SimpleNamespace(layers="abcde", judge=None)
    run = TuningRun(session, 0, tuner, no_progress, named=named)  # type: ignore[arg-type]
    seen: list[str] = []

    def attempt(choices: Sequence[tuple[str, float]]) -> list[Trial]:
        seen.extend(layer for layer, _ in choices)
        judged = [Judgement(0.9, traces[layer]) for layer, _ in choices]
        fields = [{"rank": 1, "layer": layer} for layer, _ in choices]
        return [Trial("layers", *each) for each in zip(fields, judged, strict=True)]

    run._try_layers(attempt, trial(0.9, 1.0))
    # The first that is worse ends a way, whatever is behind it.
    assert "".join(seen) == tried


def test_a_trial_is_the_edit_without_its_patch(spec: Path) -> None:
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)
    model = session.try_edit(number)
    assert len(session.stack) == number
    session.solve(number)
    built = session.current_model()
    assert model.weights.digest() == built.weights.digest()  # type: ignore[attr-defined]


@pytest.mark.parametrize("few", [0, 1000])
def test_the_judge_draws_wishes_with_the_other_judged_images(
    spec: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tuner, "FEW_WISHES", few)
    session, number = open_at_edit(spec, "tuned", "cpu", no_progress)
    tuner = ImageTuner(session, number, 24)
    model = session.try_edit(number)
    judged_too = [wish.judged for wish in tuner.wishes]
    assert set(judged_too) != {None}
    # Where few of the judged images match, others do.
    assert (None in judged_too) == (few > 0)
    after = require_generator(model)
    drawn = [
        (wish.output, wish.output.draw(session.loaded, number, after)) for wish in tuner.wishes
    ]
    traces = find_traces(tuner.generator, after, tuner.judged, tuner.judge.allowed)
    judged = tuner.judge(model)
    assert judged.efficacy == pytest.approx(efficacy(drawn), abs=1e-3)
    assert judged.trace == pytest.approx(traces.share(VISIBLE), abs=0.1)
    assert 0 < judged.efficacy < 1


def test_layers_are_scanned_as_if_each_was_traced(spec: Path) -> None:
    model = StyleGAN2(load_file(spec.parent / "tiny.safetensors"))
    latents = torch.randn(3, model.architecture.latent_size, generator=torch.manual_seed(0))
    places = {}
    for name in ("layer4", "layer6"):
        size = model.layer(name).key_size
        places[name] = torch.rand(2, size, size, generator=torch.manual_seed(1)).double()
    found = scan(model, places, latents, lambda done, total: None)
    for name, areas in places.items():
        keys = model.trace(name, latents).key.double()
        means = torch.einsum("phw,nihw->npi", areas / areas.sum((1, 2), keepdim=True), keys)
        assert torch.allclose(found[name].means, means, atol=1e-5)
        rows = keys.movedim(1, -1).flatten(0, 2)
        assert torch.allclose(found[name].moment, rows.T @ rows / len(rows), atol=1e-5)


def test_places_are_cut_down_to_what_differs_in_them() -> None:
    generator = torch.manual_seed(0)
    ones = 0.1 * torch.randn(30, 3, 32, 32, generator=generator)
    others = 0.1 * torch.randn(30, 3, 32, 32, generator=generator)
    others[:, :, 8:14, 6:12] += 0.5
    # A sun that stands in every second picture of both kinds makes no difference.
    ones[::2, :, 2:6, 2:6] += 1
    others[::2, :, 2:6, 2:6] += 1
    differing = tell_apart(ones, others)
    assert differing[9:13, 7:11].all()
    assert not differing[:7].any()
    whole = Box(0, 0, 40, 64)
    (tight,) = tighten_slots([Slot({}, whole)], [differing], 64)
    assert (tight.box.top, tight.box.left) == pytest.approx((16, 12), abs=3)
    assert (tight.box.bottom, tight.box.right) == pytest.approx((28, 24), abs=3)
    assert tight.mask == {"box": edges_of(tight.box)}
    # All are cut to one size, and none reaches beyond its place.
    low = Slot({}, Box(24, 0, 40, 64))
    one, other = tighten_slots([Slot({}, whole), low], [differing, differing], 64)
    assert one.area == other.area
    assert other.box.top >= 24
    assert not tighten_slots([Slot({}, Box(40, 0, 64, 64))], [differing], 64)


def test_a_pair_moves_with_its_place() -> None:
    old, new = Box(0, 8, 16, 24), Box(2, 10, 12, 20)
    target = {"latent": 1, "mask": {"box": edges_of(old)}}
    pair = {"source": {"latent": 2, "mask": {"box": [30, 4, 46, 20]}}, "target": target}
    (moved,) = move_pair(pair, old, new)
    assert moved["target"] == {"latent": 1, "mask": {"box": [10, 2, 20, 12]}}
    assert moved["source"] == {"latent": 2, "mask": {"box": [32, 6, 42, 16]}}
    (moved,) = move_pair({"source": {"latent": 2}, "target": target}, old, new)
    assert moved["source"]["mask"] == moved["target"]["mask"]
    assert not move_pair({"source": [{"latent": 2}], "target": target}, old, new)
    drawn = {"latent": 2, "mask": "tower.png"}
    assert not move_pair({"source": drawn, "target": target}, old, new)


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
