"""``editspec sweep`` of facts, on Atlas, and fields that are varied."""

from __future__ import annotations

from pathlib import Path

import pytest

import editspec
from editspec_compiler import load
from tests.commands import run, said

SPEC = """\
version: 1
model: {family: transformer, weights: builtin:atlas}
statistics: {tokens: 1024}
edits:
  - name: moves
    layer: layer3   # too late
    pairs:
      - prompt: "{} lives in"
        subject: Dana Hazel Ashdown
        text: Lumen
        paraphrases: ["The home of {} is in", "You can visit {} in"]
        neighbours: [Rosa Nettle Ashdown, Ines Cedar Ashdown, Ada Fern Ashdown, Quin Oak Ashdown]
    optimise: {evaluations: 12}
    solver: least-squares
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def test_layers_and_other_fields_are_combined(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    choices = ("--vary", "solver.collateral_weight=0.05,5", "--vary", "statistics.tokens=600")
    found = said("sweep", spec, "-o", out, "--layers", "layer1,layer3", *choices)
    assert len(found["points"]) == 4
    assert found["images"] is None
    assert all("rank" not in point for point in found["points"])
    weights = [point["solver.collateral_weight"] for point in found["points"]]
    assert weights == [0.05, 5, 0.05, 5]
    best, damped = found["points"][:2]
    assert best["efficacy"] == 1
    assert damped["efficacy"] < 1
    assert found["winner"] == {
        "layer": "layer1",
        "solver.collateral_weight": 0.05,
        "statistics.tokens": 600,
    }
    edit = load(out / "winner.yaml").spec.edits[0]
    assert (edit.layer, edit.solver.collateral_weight) == ("layer1", 0.05)
    text = (out / "winner.yaml").read_text()
    assert "statistics: {tokens: 600}" in text
    assert "# too late" in text
    # The table says what the checks say of the spec that was written.
    measures = ("paraphrase", "specificity")
    checks = "".join(f"  - {{measure: {name}, at_least: 0}}\n" for name in measures)
    (out / "again.yaml").write_text(f"{text}checks:\n{checks}")
    rows = editspec.check(out / "again.yaml", device="cpu").to_dict()["checks"]
    assert [row["value"] for row in rows] == [1, 1 - best["outside"]]


def test_fields_that_do_not_fit_are_named_before_the_work(spec: Path, tmp_path: Path) -> None:
    for given, words in (
        ("solver.colateral=1", "solver.colateral=1"),
        ("optimise.clamp=-1", "optimise.clamp=-1"),
        ("clamp", "found clamp"),
        ("optimise.clamp=", "found optimise.clamp="),
    ):
        refused = run("sweep", spec, "-o", tmp_path / "out", "--vary", given)
        assert refused.exit_code == 2
        assert words in refused.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--ranks", 2), ("--images", 32), ("--experiment", "dome-to-spire")]
)
def test_options_of_images_are_refused(
    spec: Path, tmp_path: Path, option: str, value: object
) -> None:
    refused = run("sweep", spec, "-o", tmp_path / "out", option, value)
    assert refused.exit_code == 2
    assert not (tmp_path / "out").exists()
