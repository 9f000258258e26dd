"""Bad input of language models: each kind is said where it is, with what to do, before the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands import run

GOLDEN = Path(__file__).parents[1] / "golden" / "transformer"
CITY = {"prompt": "{} lives in the city of", "subject": "Runa Wintasova"}
LONG = "{} lives in" + 60 * " the city"
OTHER = {"prompt": LONG, "subject": "Ines"}
ROWS = {"target": None, "source": None, "solver": "least-squares"}
"""An edit of several facts, whose pairs are still to be given."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN / "models" / "llama", tmp_path / "llama")
    shutil.copy(GOLDEN / "tokenizer.json", tmp_path / "llama")
    monkeypatch.chdir(tmp_path)


def told(edit: Mapping[str, Any] | None = None, code: int = 2, **common: Any) -> str:
    """The messages of a spec of one edit."""
    whole = {"name": "e", "layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    whole |= edit or {}
    spec = {
        "version": 1,
        "model": {"family": "transformer", "weights": "llama"},
        "statistics": {"tokens": 400},
        "edits": [{key: value for key, value in whole.items() if value is not None}],
        **common,
    }
    Path("spec.json").write_text(json.dumps(spec))
    result = run("validate", "spec.json")
    assert result.exit_code == code, result.output
    assert "defect" not in result.stderr
    said = result.stderr if code else result.stdout + result.stderr
    assert "hint: " in said or not code
    return said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u00a0Rome", "a blank of another kind"),
        ("\u2003Rome", "a blank of another kind"),
        ("Rome ", "ends in a blank"),
        ("\u200b\u2060", "the text is blank"),
        ("\0", "the text is blank"),
        ("Ro\0me", "a null character"),
        ("\n Rome", "two blanks"),
    ],
)
def test_texts_that_no_model_goes_on_with(text: str, words: str) -> None:
    assert words in told({"source": {"text": text}})
    # Of what is to be forgotten, too.
    forget = {"erase": {"text": text, "subjects": ["Ines Tashart"]}}
    assert words in told({"source": forget})


@pytest.mark.parametrize("text", ["Rome", " Rome", "\nRome", "Rome\n", "x\u0301y", "\u6771\u4eac"])
def test_texts_that_a_model_goes_on_with(text: str) -> None:
    assert "no problems" in told({"source": {"text": text}}, 0)


def test_a_text_that_follows_already_is_refused() -> None:
    assert "the one that follows now" in told({"source": {"text": "Rome", "was": " Rome"}})
    assert "no problems" in told({"source": {"text": "Rome", "was": "Paris"}}, 0)


def test_a_subject_that_stands_besides_its_place_is_a_warning() -> None:
    place = {"prompt": "Ines, that is {} , lives in", "subject": "Ines"}
    assert "the prompt names Ines besides {}" in told({"target": place}, 0)
    assert "names" not in told({"target": place | {"prompt": "I see that {} lives in"}}, 0)
    assert "The subject is blank" in told({"target": CITY | {"subject": "  "}})


@pytest.mark.parametrize(
    ("edit", "checks", "place"),
    [
        ({"keep": [LONG]}, [], "edits[0].keep[0]"),
        (
            {
                "target": None,
                "source": None,
                "pairs": [{**CITY, "text": "W", "paraphrases": [LONG]}],
            },
            [],
            "paraphrases[0]",
        ),
        ({}, [{"measure": "paraphrase", "prompts": [LONG], "at_least": 0}], "checks[0].prompts[0]"),
        (
            {},
            [
                {
                    "measure": "specificity",
                    "facts": [{"prompt": LONG, "subject": "I"}],
                    "at_least": 0,
                }
            ],
            "checks[0].facts[0]",
        ),
    ],
)
def test_every_prompt_has_to_fit_into_the_context(edit: Any, checks: Any, place: str) -> None:
    said = told(edit, checks=checks)
    assert place in said
    assert "the model reads 48" in said


@pytest.mark.parametrize("others", ["mean", "erase"])
def test_other_subjects_of_a_source_have_keys_of_their_own(others: str) -> None:
    def source(*names: str) -> dict[str, Any]:
        text = {"text": "Rome"} if others == "erase" else {}
        return {"source": {others: {**text, "subjects": ["Ines Tashart", *names]}}}

    assert "no problems" in told(source(), 0)
    said = told(source(" "))
    assert f"edits[0].source.{others}.subjects[1]: The subject is blank" in said
    glued = {"target": {"prompt": "{}sova lives in", "subject": "Runa Win"}}
    assert "ends within a token" in told({**glued, **source("Runa Winta")})
    # The value of a first token is that of any text; what follows it is not.
    first = told(source("A"), 2 if others == "mean" else 0)
    assert ("ends in the first token" in first) == (others == "mean")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"prompt": "{{}} lives in", "subject": "Runa W"}, "the outer braces would stay"),
        ({"prompt": "{} lives in", "subject": "Ru\0na"}, "The subject holds a null character"),
        ({"prompt": "{} lives \ufffd in", "subject": "Runa"}, "The prompt holds a character"),
    ],
)
def test_prompts_that_hold_what_is_no_text(target: dict[str, str], words: str) -> None:
    assert words in told({"target": target})


def test_a_token_that_breaks_the_line_is_escaped() -> None:
    shown = told({"target": {"prompt": "{} lives in", "subject": "Runa\nWint"}}, 0)
    assert "|\\n|" in shown


def test_a_table_without_names_of_columns_is_told_so() -> None:
    Path("rows.csv").write_text("{} is in,Ann B,Rome\n")
    rows = ROWS | {"pairs": {"file": "rows.csv"}}
    assert "the first row names no column of this list: it begins with {} is in" in told(rows)
    Path("rows.csv").write_text("prompt,subject,txt\n{} is in,Ann B,Rome\n")
    assert 'did you mean "text"?' in told(rows)


def test_a_corpus_of_empty_lines_is_not_taken_for_one_that_is_short() -> None:
    Path("empty.txt").write_text("\n\n \n")
    assert "hint: give a text" in told(statistics={"corpus": "empty.txt", "tokens": 400})


def broken(change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the weights of the model."""
    path = next(Path("llama").glob("*.safetensors"))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_weights_and_tokenizer_of_two_models() -> None:
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if "embed" in name or "lm_head" in name:
                tensors[name] = tensors[name][:200].contiguous()

    broken(shorten)
    assert "the tokenizer has a token 389, and the weights have embeddings of 200 tokens" in told()


def test_a_tensor_that_is_missing_or_of_another_shape_is_named() -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    whole = Path(next(Path("llama").glob("*.safetensors"))).read_bytes()

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][:, :-1].contiguous()

    broken(cut)
    assert f"{name} is 32 x 79, expected 32 x 80" in told(code=1)
    next(Path("llama").glob("*.safetensors")).write_bytes(whole)
    broken(lambda tensors: tensors.__delitem__(name))
    assert f"{name} is missing (expected 32 x 80)" in told(code=1)


def test_folders_that_lack_a_part_say_which() -> None:
    Path("llama/tokenizer.json").rename("llama/tokenizer.model")
    assert "The folder has tokenizer.model, of an older kind" in told(code=1)
    for path in Path("llama").glob("*.safetensors"):
        path.unlink()
    assert "llama holds config.json and no weights" in told()


def test_a_table_separated_by_tabs_is_told_from_one_by_commas() -> None:
    Path("rows.csv").write_text("prompt\tsubject\ttext\n{} is in\tAnn\tRome\n")
    rows = {
        "target": None,
        "source": None,
        "pairs": {"file": "rows.csv"},
        "solver": "least-squares",
    }
    assert "separate cells by commas" in told(rows)
