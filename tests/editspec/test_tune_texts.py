"""``editspec tune`` of facts, on Atlas: what is found, what judges, and what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import editspec
from editspec.modalities.text import tuner
from editspec_compiler import load
from tests.commands import run, said

PAIRS = """
      - prompt: "{} lives in"
        subject: Dana Hazel Ashdown
        text: Lumen
        paraphrases: ["The home of {} is in", "You can visit {} in"]
        neighbours: [Rosa Nettle Ashdown, Ines Cedar Ashdown, Ada Fern Ashdown, Quin Oak Ashdown]
"""
SPEC = f"""\
version: 1
model: {{family: transformer, weights: builtin:atlas}}
statistics: {{tokens: 1024}}
edits:
  - name: moves
    layer: layer3   # too late
    pairs:{PAIRS}
    optimise: {{evaluations: 12, clamp: 2}}
"""


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "CLAMPS", (0.1, 0.6))
    monkeypatch.setattr(tuner, "WEIGHTS", (0.05,))
    monkeypatch.setattr(tuner, "PREFIXES", (2,))
    monkeypatch.setattr(tuner, "TOKENS", (2.0,))


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def test_an_edit_of_a_late_layer_is_found_an_earlier_one(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = said("tune", spec, "-o", out, "--rounds", 1)
    assert found["given"]["efficacy"] < 1
    assert found["picked"]["efficacy"] == 1
    assert found["picked"]["trace"] == 0
    assert found["picked"]["layer"] == "layer1"
    assert found["about"] == "2 prompts and 2 other facts; 1 paraphrase and 2 facts are held out"
    # What is held out is measured by a build of the spec that was written.
    tuned = json.loads(json.dumps(load(out / "tuned.yaml").document.data))
    tuned["edits"][0]["pairs"][0]["paraphrases"] = ["You can visit {} in"]
    tuned["edits"][0]["pairs"][0]["neighbours"] = ["Ines Cedar Ashdown", "Quin Oak Ashdown"]
    names = ("paraphrase", "specificity")
    tuned["checks"] = [{"measure": name, "at_least": 0} for name in names]
    (out / "again.json").write_text(json.dumps(tuned))
    rows = editspec.check(out / "again.json", device="cpu").to_dict()["checks"]
    values = {row["measure"]: row["value"] for row in rows}
    assert found["held_out"]["picked"]["efficacy"] == values["paraphrase"]
    assert found["held_out"]["picked"]["trace"] == 1 - values["specificity"]


def test_every_field_is_tried_and_what_failed_is_shown(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = said("tune", spec, "-o", out, "--rounds", 1, "--layers", "layer1")
    tried = [trial for trial in found["trials"] if trial["stage"] == "round 1"]
    assert {"optimise", "solver", "context", "statistics"} <= {
        key for each in tried for key in each
    }
    small = next(each for each in tried if each.get("optimise", {}).get("clamp") == 0.1)
    assert small["efficacy"] < found["picked"]["efficacy"]
    page = (out / "tune.html").read_text()
    for text in ("Dana Hazel Ashdown", "Held out", "other facts whose likeliest next token"):
        assert text in page
    assert "images" not in page


def test_what_is_kept_or_preserved_judges_nothing(spec: Path, tmp_path: Path) -> None:
    neighbours = "[Rosa Nettle Ashdown, Ines Cedar Ashdown, Ada Fern Ashdown, Quin Oak Ashdown]"
    facts = '[{prompt: "{} lives in", subject: Rosa Nettle Ashdown}]'
    text = SPEC.replace(neighbours, "[Rosa Nettle Ashdown]")
    spec.write_text(text + f"    preserve: {facts}\n")
    refused = run("tune", spec, "-o", tmp_path / "out")
    assert refused.exit_code == 2
    assert "nothing says what must stay" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_options_of_images_and_unknown_layers_are_refused(spec: Path, tmp_path: Path) -> None:
    refused = run("tune", spec, "-o", tmp_path / "out", "--images", 32)
    assert refused.exit_code == 2
    assert "--images" in refused.stderr
    refused = run("tune", spec, "-o", tmp_path / "out", "--layers", "layer9")
    assert refused.exit_code == 2
    assert "layer9" in refused.stderr
    assert "layer3" in refused.stderr


def test_rows_of_layers_are_moved_together(spec: Path) -> None:
    spec.write_text(SPEC.replace("layer: layer3   # too late", "layers: [layer0, layer2]"))
    loaded = load(spec)
    session = editspec.engine.session.BuildSession.of(loaded, "cpu", lambda *said: None)
    run = tuner.TextTuning(session, 0, [], lambda *said: None)
    assert run.places == [["layer0", "layer2"]]
    assert tuner.TextTuning(session, 0, ["layer1"], lambda *said: None).places == [["layer1"]]
