"""The studio on texts and on prompts, as an application: what is said of an edit, and asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import editspec_compiler.modalities
from editspec.modalities.image.pictures import data_url
from editspec.studio.answers import Answers
from editspec.studio.modality_registry import MODALITIES, studio_modality_of
from editspec.studio.server import new_spec
from editspec.studio.spec_editor import put_values
from editspec.studio.yaml_blocks import ORDER
from tests.studio.conftest import Studio

Make = Callable[..., Studio]

FACT = """\
version: 1
model: {family: transformer, weights: builtin:atlas}
statistics: {tokens: 4096}
edits:
  - name: dana-moves
    layer: layer1
    target: {prompt: "{} lives in", subject: Dana Hazel Ashdown}
    source: {text: Lumen, was: Belmar}
    preserve: [{prompt: "{} lives in", subject: Rosa Nettle Ashdown}]
    optimise: {evaluations: 12, clamp: 0.6}
checks:
  - {measure: paraphrase, prompts: ["The home of {} is in"], at_least: 1}
"""

CONCEPT = """\
version: 1
model: {family: diffusion, weights: builtin:skyline-captions}
edits:
  - name: spires
    source: {prompt: twin spires}
    target: {prompt: two domes, tokens: content}
    context: [{prompt: a pair of domes}]
    preserve: [{prompt: a red sky}, {prompt: ""}]
pictures: {prompts: ["two domes, at noon"], steps: 50}
"""


@pytest.fixture
def facts(make_studio: Make, one_cache: None) -> Studio:
    return make_studio(FACT)


def samples(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The samples of the first edit by their words."""
    return {each["words"]: each for each in state["edits"][0]["samples"]}


def test_every_modality_of_the_language_has_a_place_in_the_studio() -> None:
    folder = Path(editspec_compiler.modalities.__path__[0])
    assert set(MODALITIES) == {each.parent.name for each in folder.glob("*/modality.py")}


@pytest.mark.parametrize("family", ["stylegan2", "transformer", "diffusion"])
def test_every_field_of_an_edit_has_a_place_among_the_others(family: str) -> None:
    assert set(studio_modality_of(family).edit_type.model_fields) <= set(ORDER)


def test_a_fact_is_shown_with_the_token_of_its_key_and_asked_for(facts: Studio) -> None:
    other = "  - {measure: paraphrase, edit: another, prompts: ['{} is in'], at_least: 1}\n"
    state = facts.call("PUT", "spec", {"text": FACT + other})
    edit = state["edits"][0]
    [line] = edit["tokens"]
    assert [line["pieces"][mark] for mark in line["marked"]] == [" Ashdown"]
    assert edit["given"]["source"] == {"text": "Lumen", "was": "Belmar"}
    assert {words: (each["role"], each["wanted"]) for words, each in samples(state).items()} == {
        "Dana Hazel Ashdown lives in": ("own", "Lumen"),
        "The home of Dana Hazel Ashdown is in": ("paraphrase", "Lumen"),
        "Rosa Nettle Ashdown lives in": ("neighbour", ""),
    }  # and not what a check of another edit names
    asked = samples(facts.run("edits/0/ask"))
    assert asked["Dana Hazel Ashdown lives in"]["before"][0].strip().startswith("Belmar")
    assert asked["Dana Hazel Ashdown lives in"]["after"] == []


def test_answers_belong_to_the_model_that_gave_them(facts: Studio) -> None:
    facts.run("execute")
    own = "Dana Hazel Ashdown lives in"
    before, [after] = (samples(facts.run("edits/0/ask"))[own][side] for side in ("before", "after"))
    assert after.strip().startswith("Lumen")
    assert not before[0].strip().startswith("Lumen")

    # What is not asked yet has no answer; undo comes back to those that were given.
    source = {"prompt": "{} lives in", "subject": "Gala Ivy Jasper"}
    changed = facts.call("PATCH", "edits/0", {"fields": {"source": source}})
    assert changed["results"]["current"] is False
    facts.run("execute")
    state = facts.call("GET", "spec")
    assert state["results"]["current"]
    assert samples(state)[own]["before"] == before
    assert samples(state)[own]["after"] == [None]
    again = facts.call("POST", "undo", {})
    assert again["results"]["current"]
    assert samples(again)[own]["after"] == [after]


def test_an_unfinished_fact_is_a_step_that_is_left(make_studio: Make, tmp_path: Path) -> None:
    studio = make_studio(new_spec("builtin:atlas", tmp_path / "edits.yaml"))
    state = studio.call("GET", "spec")
    assert [each["unfinished"] for each in state["problems"]] == [True, True]
    target = {"prompt": "{} lives in"}
    state = studio.call("PATCH", "edits/0", {"fields": {"target": target}})
    assert all(each["unfinished"] for each in state["problems"])
    assert state["edits"][0]["tokens"] == []
    studio.call("POST", "edits/0/ask", {}, 422)
    state = studio.call("PATCH", "edits/0", {"fields": {"target": {**target, "subject": "Da na "}}})
    assert "blanks" in state["edits"][0]["tokens"][0]["trouble"]
    assert any(not each["unfinished"] for each in state["problems"])


def test_fields_are_those_of_the_language(facts: Studio) -> None:
    refused = facts.call("PATCH", "edits/0", {"fields": {"colour": 1}}, 422)
    assert "colour" in refused["message"]
    state = facts.call("PATCH", "edits/0", {"fields": {"layer": None, "layers": ["layer1"]}})
    assert state["edits"][0]["layers"] == ["layer1"]
    # A new edit is of the same layers, and of one kind of them.
    added = facts.call("POST", "edits", {})["edits"][1]
    assert added["given"] == {"name": "edit-1", "layers": ["layer1"]}
    assert [each["method"] for each in state["solvers"]] == [
        "least-squares",
        "closed-form",
        "null-space",
    ]


def test_rows_of_a_file_are_shown_and_not_those_of_another_folder(
    make_studio: Make, tmp_path: Path
) -> None:
    row = '{"prompt": "{} lives in", "subject": "Dana Hazel Ashdown", "text": "Lumen"}\n'
    (tmp_path / "rows.jsonl").write_text(row)
    text = FACT.split("    target")[0] + "    pairs: {file: rows.jsonl}\n"
    studio = make_studio(text)
    [line] = studio.call("GET", "spec")["edits"][0]["tokens"]
    assert line["place"] == "pairs[0].target"
    outside = tmp_path.parent / "rows.jsonl"
    outside.write_text(row)
    changed = studio.call("PUT", "spec", {"text": text.replace("rows.jsonl", f"../{outside.name}")})
    assert changed["edits"][0]["tokens"] == []
    assert changed["edits"][0]["samples"] == []


def test_a_concept_is_shown_with_the_tokens_that_are_edited(make_studio: Make) -> None:
    state = make_studio(CONCEPT).call("GET", "spec")
    edit = state["edits"][0]
    marked = {
        line["place"]: [line["pieces"][mark] for mark in line["marked"]] for line in edit["tokens"]
    }
    assert marked == {
        "source": ["spires"],
        "target": ["two", "domes"],
        "context[0]": ["domes"],
    }
    assert {words: each["role"] for words, each in samples(state).items()} == {
        "two domes": "own",
        "a pair of domes": "paraphrase",
        "two domes, at noon": "paraphrase",
        "a red sky": "neighbour",
    }  # the begin-of-text token is no picture
    assert state["model"]["groups"] == ["cross-attention", "to_k", "to_v"]
    assert edit["rank"] is None


def test_pictures_come_as_they_are_drawn_and_are_cancelled(
    make_studio: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, int, int]] = []
    studio = make_studio(CONCEPT)
    modality = studio.engine.modality

    def answering(session: Any, keep_going: Callable[[], None]) -> Any:
        def answer(model: Any, asked: Any) -> bytes:
            drawn.append((asked["prompt"], asked["seed"], asked["steps"]))
            if len(drawn) == 4:
                studio.call("POST", "cancel")
            keep_going()
            return b"\x89PNG"

        return answer

    monkeypatch.setattr(type(modality), "answering", lambda self, *given: answering(*given))
    state = studio.run("edits/0/ask")
    assert len(drawn) == 4  # of twelve
    assert {steps for _, _, steps in drawn} == {8}  # few, whatever the spec says
    found = samples(state)["two domes"]["before"]
    assert len(found) == 3
    assert state["failure"] is None
    picture = studio.call("GET", f"answers/{found[0]}")
    assert picture.content == b"\x89PNG"
    assert picture.headers["content-type"] == "image/png"
    studio.call("GET", "answers/0123456789abcdef", expect=404)


def test_a_doubt_about_a_mask_is_a_warning_that_stops_nothing(studio: Studio) -> None:
    image = _white()
    studio.make_edit()
    state = studio.call("PUT", "edits/0/places/source", {"latent": 1268, "mask": image})
    [found] = state["problems"]
    assert found["warning"]
    assert "covers 100%" in found["message"]
    assert found["line"] > 0
    assert studio.run("execute")["results"]["current"]


def _white() -> str:
    """A mask that covers all, as a data URL."""
    return data_url(Image.new("L", (64, 64), 255))


ROWS = """\
edits:
  - name: e   # mine
    pairs:
      - {prompt: a, subject: b}   # the first
      - prompt: c                 # written by hand
        subject: d
      - {prompt: e, subject: f}
"""


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([0, 1], ["# the first", "# written by hand"]),
        ([1, 2], ["# written by hand", "{prompt: e, subject: f}"]),
        ([0, 2], ["# the first", "{prompt: e, subject: f}"]),
        ([0, 1, 2, 0], ["# the first", "# written by hand", "{prompt: e, subject: f}"]),
    ],
)
def test_rows_that_stay_keep_their_lines(rows: list[int], kept: list[str]) -> None:
    all_rows = [{"prompt": p, "subject": s} for p, s in ("ab", "cd", "ef")]
    text = put_values(ROWS, "a.yaml", 0, {"pairs": [all_rows[row] for row in rows]})
    for words in ["# mine", *kept]:
        assert words in text
    assert text.count("prompt:") == len(rows)
    assert put_values(ROWS, "a.yaml", 0, {"pairs": None}).count("prompt:") == 0


def test_the_oldest_answers_go_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editspec.studio.answers.BYTES", 10)
    answers = Answers()
    for name in "abc":
        answers.keep(name, b"1234")
    assert [answers.find(name) is None for name in "abc"] == [True, False, False]
    answers.keep("c", b"12345")
    assert answers.find("b") == b"1234"
