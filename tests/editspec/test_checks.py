"""Checks: every measure against another way to get it, the gate, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from junitparser import JUnitXml
from torch import Tensor

import editspec
from editspec.engine.checks import FAILED, judge
from editspec.engine.choices import Choice, rewrite_winner
from editspec.engine.session import BuildSession
from editspec.modalities.image.measures import (
    NO_WISH,
    ImageMeasures,
    efficacy,
    find_quantile,
    wish_ratios,
)
from editspec_compiler import SpecError, load
from editspec_compiler.digests import edit_digest
from editspec_compiler.modalities.image.expected import ExpectedOutput, expected_outputs
from editspec_compiler.modalities.image.places import no_moment
from editspec_compiler.modalities.image.schema import Place
from editspec_runtime.core.progress import no_progress
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import contents, run, said

PLACE: dict[str, Any] = {"latent": 1, "mask": {"box": [2, 2, 10, 10]}}
ELSEWHERE: dict[str, Any] = {"latents": [5, 6, [0.1] * 8], "mask": {"box": [4, 4, 12, 12]}}


def spec_of(*given: dict[str, Any], edits: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    solver = {"method": "direct", "steps": 60}
    source = {"latent": 3, "mask": {"box": [4, 2, 12, 10]}}
    two = [
        {
            "name": "one",
            "layer": "layer5",
            "rank": 4,
            "source": source,
            "target": PLACE,
            "solver": solver,
        },
        {
            "name": "two",
            "layer": "layer6",
            "source": {**source, "latent": 4},
            "target": PLACE,
            "solver": solver,
        },
    ]
    model = {"family": "stylegan2", "weights": "tiny.safetensors"}
    return {
        "version": 1,
        "model": model,
        "statistics": {"samples": 16},
        "edits": edits or two,
        "checks": list(given),
    }


def save(spec: dict[str, Any], name: str = "spec.yaml") -> None:
    if not spec["checks"]:
        del spec["checks"]
    Path(name).write_text(yaml.safe_dump(spec, sort_keys=False))


def values(found: dict[str, Any]) -> dict[tuple[str, str | None], Any]:
    return {(row["name"], row["edit"]): row["value"] for row in found["checks"]}


def pictures(*patches: object) -> Callable[..., Tensor]:
    """What the model draws with these patches, by way of the files that `apply` writes."""
    if patches:
        said("apply", "--model", "tiny.safetensors", *patches, "-o", "edited.safetensors")
    model = StyleGAN2(
        read_weights(Path("edited.safetensors" if patches else "tiny.safetensors")).tensors
    )

    def draw(latent: Any) -> Tensor:
        given = (
            LatentStream(1, 8).items([latent])
            if isinstance(latent, int)
            else torch.tensor([latent])
        )
        with torch.no_grad():
            return model.images(given)[0]

    return draw


def test_every_measure_is_what_it_says(tiny_folder: Path) -> None:
    save(
        spec_of(
            {"measure": "target-error", "at_most": 9},
            {"measure": "predicted-collateral", "at_most": 9},
            {"measure": "patch-size", "at_most": 9999},
            {"measure": "finite"},
            {"measure": "collateral", "images": [ELSEWHERE, {"latents": [9]}], "at_most": 9},
            {"measure": "collateral", "edit": "two", "images": [ELSEWHERE], "at_most": 9},
        )
    )
    built = said("build", "spec.yaml", "-o", "out")["edits"]
    found = said("check", "spec.yaml", "-o", "out")
    assert found["passed"] is True
    measured = values(found)
    for edit in built:
        collateral = max(layer["correlated"] for layer in edit["collateral"].values())
        assert measured["target-error", edit["name"]] == pytest.approx(edit["loss"], rel=1e-6)
        assert edit["loss"] > 0
        assert measured["predicted-collateral", edit["name"]] == collateral > 0
        assert measured["patch-size", edit["name"]] == Path(edit["patch"]).stat().st_size
        assert measured["finite", edit["name"]] == 0
    before, one, both = (
        pictures(),
        pictures(built[0]["patch"]),
        pictures(*(edit["patch"] for edit in built)),
    )

    def mean(first: Callable[..., Tensor], last: Callable[..., Tensor], *whole: int) -> float:
        outside = torch.ones(16, 16, dtype=torch.bool)
        outside[4:12, 4:12] = False
        moved = [(last(z) - first(z)).abs().mean(0)[outside] for z in ELSEWHERE["latents"]]
        return (
            torch.cat([*moved, *((last(z) - first(z)).abs().mean(0).flatten() for z in whole)])
            .mean()
            .item()
        )

    assert measured["collateral", None] == pytest.approx(mean(before, both, 9), rel=1e-5)
    assert measured["collateral", "two"] == pytest.approx(mean(one, both), rel=1e-5)


def test_the_loss_is_measured_and_not_believed(tiny_folder: Path) -> None:
    save(spec_of({"measure": "target-error", "at_most": 9}))
    first = said("build", "spec.yaml", "-o", "out", "--check")
    lock = Path("spec.yaml.lock")
    text = lock.read_text()
    lock.write_text(text.replace("loss: 0.", "loss: 7."))
    assert lock.read_text() != text
    again = said("build", "spec.yaml", "-o", "out", "--check")
    assert again["edits"][0]["loss"] > 7
    assert values(again) == values(first)


def test_efficacy_is_the_share_of_what_is_asked_for() -> None:
    generator = np.random.default_rng(0)
    x, wanted, y = (generator.normal(size=(3, 5, 5)) for _ in range(3))
    area = generator.uniform(size=(5, 5))

    def share(after: Any, wanted: Any = wanted, area: Any = area) -> float | None:
        one, other = (torch.from_numpy(picture)[None] for picture in (x, wanted))
        wish = ExpectedOutput(Place.model_validate(PLACE), one, other, torch.from_numpy(area))
        return efficacy([(wish, torch.from_numpy(after)[None])])

    reached = whole = 0.0
    for row in range(5):
        for column in range(5):
            there = (slice(None), row, column)
            weight = area[row, column] * np.abs(wanted[there] - x[there]).mean()
            closer = np.abs(y[there] - wanted[there]).mean() < np.abs(y[there] - x[there]).mean()
            reached, whole = reached + weight * closer, whole + weight
    assert share(y) == pytest.approx(reached / whole)
    assert 0 < reached / whole < 1
    assert share(x) == 0
    assert share(wanted) == 1
    assert share(x + 0.4 * (wanted - x)) == 0
    assert share(x + 0.6 * (wanted - x)) == pytest.approx(1)
    assert share(x - (wanted - x)) == 0
    assert share(y, wanted=x) is None
    assert share(y, area=np.zeros((5, 5))) is None


def test_the_share_that_is_recovered_stands_beside_efficacy() -> None:
    generator = np.random.default_rng(1)
    x, wanted = (generator.normal(size=(2, 3, 5, 5)) for _ in range(2))
    area = generator.uniform(size=(2, 5, 5))

    def ratios(*after: Any) -> Any:
        wishes = []
        for number, picture in enumerate(after):
            one, other = (torch.from_numpy(each[number])[None] for each in (x, wanted))
            place = torch.from_numpy(area[number])
            wish = ExpectedOutput(Place.model_validate(PLACE), one, other, place)
            wishes.append((wish, torch.from_numpy(picture)[None]))
        return wish_ratios(wishes)

    def value(name: str, *shares: float) -> float:
        after = [x[n] + share * (wanted[n] - x[n]) for n, share in enumerate(shares)]
        found: float = ratios(*after)[name].value
        return found

    assert value("recovered", 0.4, 0.4) == pytest.approx(0.4)
    assert value("recovered", -1, -1) == pytest.approx(-1)
    assert value("within_quarter", 0.7, 0.74) == 0
    assert value("within_quarter", 0.76, 0.8) == pytest.approx(1)
    weights = [(area[n] * np.abs(wanted[n] - x[n]).mean(0)).sum() for n in range(2)]
    assert value("within_quarter", 0.7, 0.8) == pytest.approx(weights[1] / sum(weights))
    # Efficacy is 1 for all that come more than half of the way.
    assert value("efficacy", 0.6, 1) == pytest.approx(1)
    assert value("recovered", 0.6, 1) == pytest.approx(
        (0.6 * weights[0] + weights[1]) / sum(weights)
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_quantile_counts_by_weight(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, times = generator.normal(size=(6, 6)), generator.integers(0, 5, size=(6, 6))
    found = find_quantile(torch.from_numpy(values), torch.from_numpy(times).double(), 0.9)
    repeated = np.repeat(values.flatten(), times.flatten())
    assert float(found) == np.quantile(repeated, 0.9, method="inverted_cdf")


def test_checks_say_how_sure_they_are(tiny_folder: Path) -> None:
    images = [{"latents": [1, 2, 3, 4, 5]}]
    places = [{"latents": [1, 5], "mask": PLACE["mask"]}]
    save(
        spec_of(
            {"measure": "efficacy", "at_least": 0, "images": places, "edit": "one"},
            {"measure": "collateral", "at_most": 9, "images": images},
            {"measure": "efficacy", "at_least": 0, "name": "single", "edit": "one"},
        )
    )
    reach, collateral, single = said("check", "spec.yaml")["checks"]
    assert set(reach["facts"]["intervals"]) == {"efficacy", "recovered", "within_quarter"}
    low, high = reach["facts"]["intervals"]["efficacy"]
    assert low <= reach["value"] <= high
    assert reach["detail"] == f"recovered {reach['facts']['recovered']:.3g}"
    low, high = collateral["facts"]["intervals"]["collateral"]
    assert low < collateral["value"] < high
    assert collateral["facts"]["change_99"] > collateral["value"]
    # One picture does not tell how much others differ.
    assert single["facts"]["intervals"] == {}
    assert -1 < single["facts"]["recovered"] < 1


def test_what_a_rule_asks_for_is_drawn_from_its_value(tiny_folder: Path) -> None:
    """x* is the picture of the value that the solver is given, wherever the map is the rule's."""
    save(spec_of())
    editspec.build("spec.yaml", "out", device="cpu")
    loaded = load("spec.yaml")
    (rule,) = read_rule(Path("out/rules/01-one.safetensors")).rules
    model = StyleGAN2(read_weights(Path("tiny.safetensors")).tensors)
    (wish,) = expected_outputs(loaded, 0, model, no_moment)
    top, left, bottom, right = rule.details["region"]
    scale = model.layer("layer5").scale
    with torch.no_grad():
        reached = model.trace("layer5", LatentStream(1, 8).items([1]))
        value = model.layer_value("layer5", reached)
        value[:, :, top * scale : bottom * scale, left * scale : right * scale] = rule.value
        torch.testing.assert_close(wish.wanted, model.forward_from("layer5", value, reached))
        torch.testing.assert_close(wish.before, model.images(LatentStream(1, 8).items([1])))
    assert not torch.allclose(wish.before, wish.wanted)
    assert wish.area.sum() == 64


def test_a_rule_that_is_met_has_efficacy_one_and_no_edit_has_none(tiny_folder: Path) -> None:
    """`layer` has 54 weights a channel for nine values: it meets them."""
    target, source = ({"latent": z, "mask": {"box": [4, 4, 7, 7]}} for z in (1, 3))
    solver = {"method": "layer", "steps": 800, "learning_rate": 0.02}
    edit = {**spec_of()["edits"][0], "source": source, "target": target, "solver": solver}
    del edit["rank"]
    weak = {
        **edit,
        "name": "weak",
        "solver": {"method": "layer", "steps": 10, "learning_rate": 1e-3},
    }
    save(spec_of({"measure": "efficacy", "at_least": 0.9}, edits=[edit]), "met.yaml")
    save(spec_of({"measure": "efficacy", "at_least": 0.9}, edits=[weak]), "weak.yaml")
    assert values(said("check", "met.yaml"))["efficacy", "one"] > 0.9
    found = said("check", "weak.yaml", code=1)
    assert (found["passed"], values(found)) == (False, {("efficacy", "weak"): 0})


def test_a_rule_that_asks_for_nothing_is_not_measured(tiny_folder: Path) -> None:
    same = {"latent": 1, "mask": {"ellipse": [2, 2, 11, 13]}}
    edit = {**spec_of()["edits"][0], "source": same, "target": same}
    save(spec_of({"measure": "efficacy", "at_least": 0}, edits=[edit]))
    (row,) = said("check", "spec.yaml", code=1)["checks"]
    assert (row["value"], row["detail"]) == (None, NO_WISH)


@pytest.mark.parametrize(
    "fields",
    [
        {"source": {"erase": {"units": 2}}},
        {"source": {"erase": {"units": 2}}, "solver": {"method": "ablate"}},
        {"observe": "layer6"},
        {"observe": "layer5"},
        {"solver": {"method": "all-weights", "steps": 5}},
        {"source": {"latent": 3}},
        {
            "target": {
                **PLACE,
                "intervene": {"layer": "layer3", "units": [1], "value": 2, "mask": PLACE["mask"]},
            }
        },
    ],
    ids=[
        "erase",
        "ablate",
        "observe-later",
        "observe-itself",
        "all-weights",
        "no-mask",
        "intervene",
    ],
)
def test_every_kind_of_rule_can_be_measured(tiny_folder: Path, fields: dict[str, Any]) -> None:
    edit = {**spec_of()["edits"][0], "rank": 1, **fields}
    if "observe" in fields:  # whole maps are compared
        whole = {"mask": {"box": [0, 0, 16, 16]}}
        edit |= {"source": {"latent": 3, **whole}, "target": {"latent": 1, **whole}}
        edit["solver"] = {"method": "layer", "steps": 60, "learning_rate": 0.01}
    if edit["solver"]["method"] in ("layer", "all-weights", "ablate"):
        del edit["rank"]
    elsewhere = {"measure": "efficacy", "images": [ELSEWHERE], "name": "elsewhere", "at_least": 0}
    save(
        spec_of(
            {"measure": "efficacy", "at_least": 0}, elsewhere, {"measure": "finite"}, edits=[edit]
        )
    )
    found = values(said("check", "spec.yaml"))
    assert 0 <= found["efficacy", "one"] <= 1
    assert 0 <= found["elsewhere", "one"] <= 1


def test_the_targets_are_where_an_edit_is_measured_without_images(tiny_folder: Path) -> None:
    same = {"latents": [1], "mask": PLACE["mask"]}
    efficacy = {"measure": "efficacy", "edit": "one", "at_least": 0}
    given = [
        efficacy,
        {**efficacy, "name": "same", "images": [same]},
        {**efficacy, "name": "other"},
    ]
    given[2]["images"] = [{**same, "latents": [2]}]
    save(spec_of(*given))
    found = values(said("check", "spec.yaml"))
    assert found["efficacy", "one"] == found["same", "one"] != found["other", "one"]


def test_observing_the_layer_itself_asks_for_the_same(tiny_folder: Path) -> None:
    wishes = []
    for observe in ({}, {"observe": "layer5"}):
        save(spec_of(edits=[{**spec_of()["edits"][0], **observe}]))
        model = StyleGAN2(read_weights(Path("tiny.safetensors")).tensors)
        wishes += list(expected_outputs(load("spec.yaml"), 0, model, no_moment))
    torch.testing.assert_close(wishes[0].wanted, wishes[1].wanted)


def test_retention_is_what_later_edits_leave_of_the_efficacy(tiny_folder: Path) -> None:
    check = {"measure": "efficacy", "at_least": 0}
    spec = spec_of({"measure": "retention", "at_least": 0}, check)
    save(spec)
    found = said("check", "spec.yaml")
    row = found["checks"][0]
    assert [(r["measure"], r["edit"]) for r in found["checks"]].count(("retention", "two")) == 0
    built, left = (float(word.strip(",")) for word in row["detail"].split() if word[0].isdigit())
    assert built == pytest.approx(values(found)["efficacy", "one"], rel=0.01)
    assert row["value"] == pytest.approx(left / built, rel=0.02)
    assert row["value"] != 1
    # What is left, measured on the weights that `apply` writes.
    patches = [edit["patch"] for edit in said("build", "spec.yaml", "-o", "out")["edits"]]
    draw = pictures(*patches)
    wishes = list(
        expected_outputs(
            load("spec.yaml"),
            0,
            StyleGAN2(read_weights(Path("tiny.safetensors")).tensors),
            no_moment,
        )
    )
    assert efficacy([(wishes[0], draw(1)[None])]) == pytest.approx(built * row["value"], rel=0.01)


def test_what_is_not_finite_is_found(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(spec_of({"measure": "finite"}))
    session = BuildSession.of("spec.yaml", "cpu", no_progress)
    built = [session.edit(number) for number in range(2)]
    measuring = ImageMeasures(session, built)
    assert measuring.finite(0) == (0, "")
    patch = session.stack[0]
    (name,) = patch.parameters
    damaged = patch.coefficients[name].clone()
    damaged[0, 0, 0, 0] = float("nan")
    broken = replace(session, stack=[replace(patch, coefficients={name: damaged})])
    assert ImageMeasures(broken, built).finite(0) == (
        1,
        "1 numbers of the patch are not finite",
    )
    draw = ExpectedOutput.draw
    monkeypatch.setattr(ExpectedOutput, "draw", lambda *given: draw(*given).log())  # of -1..1
    count, words = measuring.finite(0)
    assert count is not None
    assert count > 1
    assert words == f"{count} numbers of the pictures are not finite"
    given = load("spec.yaml").spec.checks[0]
    assert judge(given, "one", count, words).status == FAILED
    for value in (float("nan"), None):
        row = judge(given, "one", value, "")
        assert (row.status, row.value) == (FAILED, None)


HARD = {"measure": "efficacy", "at_least": 1}
SOFT = {"measure": "efficacy", "at_least": 0}


@pytest.mark.parametrize(
    ("given", "code", "status"),
    [
        (HARD, 1, "failed"),
        (SOFT, 0, "passed"),
        ({**HARD, "severity": "warn"}, 0, "warned"),
        ({"measure": "patch-size", "at_most": 1}, 1, "failed"),
        ({"measure": "patch-size", "at_most": 100_000}, 0, "passed"),
        ({"measure": "collateral", "images": [{"latents": [4]}], "at_most": 0}, 1, "failed"),
        (
            {
                "measure": "collateral",
                "images": [{"latents": [4], "mask": {"box": [0, 0, 16, 16]}}],
                "at_most": 1,
            },
            1,
            "failed",
        ),
    ],
)
def test_the_gate(tiny_folder: Path, given: dict[str, Any], code: int, status: str) -> None:
    save(spec_of({"measure": "finite"}, given))
    for command in (["check", "spec.yaml"], ["build", "spec.yaml", "-o", "out", "--check"]):
        found = said(*command, code=code)
        assert found["passed"] is (code == 0)
        assert found["checks"][-1]["status"] == status
        text = run(*command)
        assert text.exit_code == code
        assert status in text.stdout
    # A build that failed its checks is a build: the patches are there.
    assert said("build", "spec.yaml", "-o", "out")["edits"][0]["status"] == "up to date"


def test_check_writes_nothing_but_its_reports(tiny_folder: Path) -> None:
    save(spec_of(SOFT))
    before = contents(tiny_folder)
    run("check", "spec.yaml")
    assert contents(tiny_folder) == before
    run("build", "spec.yaml", "-o", "out")
    built = contents(tiny_folder)
    assert (
        run("check", "spec.yaml", "-o", "out", "--junit", "j.xml", "--markdown", "m.md").exit_code
        == 0
    )
    after = contents(tiny_folder)
    assert {name: data for name, data in after.items() if name not in ("j.xml", "m.md")} == built


def test_the_reports(tiny_folder: Path) -> None:
    save(
        spec_of(
            {**HARD, "edit": "one"},
            {**HARD, "edit": "two", "severity": "warn"},
            {"measure": "finite"},
        )
    )
    found = said(
        "build",
        "spec.yaml",
        "-o",
        "out",
        "--check",
        "--junit",
        "j.xml",
        "--markdown",
        "m.md",
        code=1,
    )
    statuses = [row["status"] for row in found["checks"]]
    assert statuses == ["failed", "warned", "passed", "passed"]
    (suite,) = JUnitXml.fromfile("j.xml")
    assert (suite.name, suite.tests, suite.failures, suite.errors) == ("spec.yaml", 4, 1, 0)
    cases = list(suite)
    assert [(case.classname, case.name) for case in cases] == [
        ("one", "efficacy"),
        ("two", "efficacy"),
        ("one", "finite"),
        ("two", "finite"),
    ]
    assert "expected at least 1" in cases[0].result[0].message
    assert [case.is_passed for case in cases] == [False, True, True, True]
    assert cases[1].system_out.startswith("warning: efficacy of two: ")
    lines = Path("m.md").read_text().splitlines()
    assert [line.split("|")[1].strip(" *") for line in lines[3:]] == statuses
    assert len({line.count("|") for line in lines[1:]}) == 1
    first = Path("j.xml").read_bytes(), Path("m.md").read_bytes()
    run("check", "spec.yaml", "--junit", "j.xml", "--markdown", "m.md")
    assert (Path("j.xml").read_bytes(), Path("m.md").read_bytes()) == first
    for name, option in (("j.xml", "--junit"), ("m.md", "--markdown")):
        Path(name).write_text("somebody's")
        result = run("check", "spec.yaml", option, name)
        assert (result.exit_code, f"{name} is in the way" in result.stderr) == (1, True)
        assert Path(name).read_text() == "somebody's"
    assert run("build", "spec.yaml", "-o", "out", "--junit", "j.xml").exit_code == 2


def test_a_spec_without_checks_passes_and_builds_nothing(
    tiny_folder: Path, own_cache: Path
) -> None:
    save(spec_of())
    assert said("check", "spec.yaml") == {"passed": True, "checks": []}
    assert run("check", "spec.yaml").stdout == "no checks\n"
    assert not list(own_cache.rglob("*.safetensors"))


def test_checks_are_no_part_of_the_edits(tiny_folder: Path) -> None:
    save(spec_of())
    run("build", "spec.yaml", "-o", "out")
    digests = [edit_digest(load("spec.yaml"), number) for number in range(2)]
    lock, built = Path("spec.yaml.lock").read_bytes(), contents(tiny_folder / "out")
    for given in ([HARD], [SOFT, {"measure": "collateral", "images": [ELSEWHERE], "at_most": 1}]):
        save(spec_of(*given))
        assert said("plan", "spec.yaml", "-o", "out")["to_build"] == 0
        assert run("lock", "spec.yaml", "--check").exit_code == 0
        run("build", "spec.yaml", "-o", "out", "--check")
        assert [edit_digest(load("spec.yaml"), number) for number in range(2)] == digests
        assert (Path("spec.yaml.lock").read_bytes(), contents(tiny_folder / "out")) == (lock, built)
    # The control: what is part of an edit is seen.
    spec = spec_of(SOFT)
    spec["edits"][1]["target"] = {**PLACE, "latent": 2}
    save(spec)
    assert said("plan", "spec.yaml", "-o", "out")["to_build"] == 1


def test_a_mask_that_vanishes_is_named_where_it_stands(tiny_folder: Path) -> None:
    from PIL import Image

    dot = Image.new("L", (256, 256))
    dot.putpixel((200, 40), 255)
    dot.save("dot.png")
    spec = spec_of(
        {"measure": "efficacy", "images": [{"latents": [1], "mask": "dot.png"}], "at_least": 0}
    )
    # The authors' masks are sampled at points, which miss the dot.
    edit = {**spec["edits"][0], "rank": 1, "layer": "layer2"}
    save({**spec, "compatibility": "rewriting-2020", "edits": [edit]})
    with pytest.raises(SpecError) as error:
        editspec.check("spec.yaml", device="cpu")
    assert (
        "checks[0].images[0].mask: nothing of this mask is left at the resolution of layer2"
        in str(error.value)
    )


def test_a_spec_that_moves_takes_the_masks_of_its_checks_along(tiny_folder: Path) -> None:
    from PIL import Image

    Image.new("L", (16, 16), 255).save("all.png")
    save(
        spec_of(
            {"measure": "collateral", "images": [{"latents": [1], "mask": "all.png"}], "at_most": 1}
        )
    )
    Path("below").mkdir()
    Path("below/moved.yaml").write_text(
        rewrite_winner(editspec.load("spec.yaml"), Path("below"), Choice("layer5", 2))
    )
    (given,) = editspec.load("below/moved.yaml").spec.checks
    assert given.model_dump()["images"][0]["mask"] == "../all.png"
