"""Atlas: its facts, what is hidden in training, the model that ships, its specs and its bench."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import editspec
from editspec.worlds.atlas import WORLD, lessons, train
from editspec.worlds.atlas.bench import run as bench_run
from editspec.worlds.atlas.bench.answers import (
    FIRST,
    OTHERS,
    OWN,
    PARAPHRASES,
    SUBJECT,
    SURNAME,
    Prompt,
    compare_answers,
    make_prompts,
    read_answers,
)
from editspec.worlds.atlas.bench.experiments import EXPERIMENTS, specs_folder
from editspec.worlds.atlas.lessons import encode_documents, read_lesson
from editspec.worlds.atlas.world import (
    CITIES,
    LANDS,
    Document,
    KnownFact,
    Mention,
    facts,
    people,
    write_document,
)
from editspec_compiler.modalities.text.tokens import open_tokenizer
from editspec_runtime.errors import FileError
from editspec_runtime.families.contents import tensor_infos
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.transformer.architecture import read_architecture
from editspec_runtime.families.transformer.network import Transformer

DANA = KnownFact("city", "Dana Hazel Ashdown", "Belmar")


@cache
def prompts() -> tuple[Prompt, ...]:
    return make_prompts(open_tokenizer(WORLD.weights, None))


@cache
def shipped() -> Any:
    return make_model("transformer", read_weights(WORLD.weights), origin=Origin(WORLD.weights))


def untrained() -> Transformer:
    """A model with the weights before training."""
    config = train.CONFIG | {"vocab_size": train.make_tokenizer().get_vocab_size()}
    weights = train.first_weights(config)
    return Transformer(weights, read_architecture(tensor_infos(weights), config))


def test_every_fact_has_one_answer() -> None:
    found = {(fact.relation, fact.subject) for fact in facts()}
    assert len(found) == len(facts()) == 4 * len(people()) + len(CITIES)
    assert DANA in facts()
    assert {fact.answer for fact in facts() if fact.relation == "land"} <= set(LANDS)


def test_texts_say_where_they_speak_of_whom() -> None:
    chance = random.Random(1)
    subjects = {fact.subject for fact in facts()}
    documents = [write_document(chance, 4) for _ in range(50)]
    for document in documents:
        for each in document.mentions:
            named = document.text[each.begin : each.behind]
            assert (named in subjects) == each.whole
            assert any(subject.startswith(named) for subject in subjects)
    # Some sentences break off before they come to a subject or within it, and most do not.
    mentions = [each for document in documents for each in document.mentions]
    assert 170 < len(mentions) < 200
    assert 0 < sum(not each.whole for each in mentions) < 20


def test_the_model_that_ships_recalls_every_fact_in_every_phrasing() -> None:
    assert sum(path.stat().st_size for path in WORLD.weights.iterdir()) < 3e6
    answers = read_answers(shipped(), prompts())
    assert answers.tolist() == [prompt.answer for prompt in prompts()]
    # The weights before training do not.
    some = prompts()[:200]
    guessed = read_answers(untrained(), some)
    assert sum(guess == prompt.answer for guess, prompt in zip(guessed, some, strict=True)) < 40


def logits_of(before: str, name: str, behind: str) -> torch.Tensor:
    """The logits over a text with one mention, where what is hidden is hidden by `HIDDEN`."""
    text = f"{before} {name} {behind}"
    document = Document(text, (Mention(len(before) + 1, len(before) + 1 + len(name)),))
    lesson = encode_documents(train.make_tokenizer(), [document])
    return read_lesson(untrained(), lesson, torch.Generator().manual_seed(1))[0]


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_a_name_does_not_depend_on_what_is_hidden_before_it(
    hidden: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "HIDDEN", hidden)
    one = logits_of("Tara speaks", "Dana Hazel Ashdown", "lives in")
    other = logits_of("Tara works", "Dana Hazel Ashdown", "lives in")
    of_the_name = slice(3, 6)  # behind <s>, Tara, and the word that differs
    assert torch.allclose(one[of_the_name], other[of_the_name], atol=1e-5) == bool(hidden)


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_what_follows_a_name_sees_its_last_word_alone(
    hidden: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the holder's block made blind to the first word, so is all that follows the name."""
    monkeypatch.setattr(lessons, "HIDDEN", hidden)
    tokenizer = train.make_tokenizer()
    document = Document("Tara speaks. Dana Hazel Ashdown lives in", (Mention(13, 31),))
    lesson = encode_documents(tokenizer, [document])
    first = lesson.mentions[0].tolist().index(1)
    assert lesson.mentions[0].tolist() == [0] * first + [1, 1, 1, 0, 0]
    assert lesson.ends[0].nonzero()[:, 0].tolist() == [first + 2]
    seen = lesson.mentions.clone()
    # The last word apart from the rest of its name: nothing is left of the way by which they meet.
    seen[0, first + 2] = 2
    apart = replace(lesson, mentions=seen)
    model = untrained()
    changed = lesson.batch.tokens.clone()
    changed[0, first] = tokenizer.token_to_id(" Olga")
    other = replace(apart, batch=replace(lesson.batch, tokens=changed))
    one = read_lesson(model, apart, torch.Generator().manual_seed(1))[0, first + 2 :]
    two = read_lesson(model, other, torch.Generator().manual_seed(1))[0, first + 2 :]
    assert torch.allclose(one, two, atol=1e-5) == bool(hidden)


def test_training_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lessons, "TEXTS", 2)
    monkeypatch.setattr(train, "SAVED_EVERY", 1)
    monkeypatch.setattr(train, "count_known", lambda model, tokenizer: 0)
    halted = tmp_path / "halted"
    run_training(monkeypatch, tmp_path / "whole", 3)
    save = train._save

    def stop(saved: Path, step: int, *state: Any) -> None:
        save(saved, step, *state)
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(train, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            run_training(monkeypatch, halted, 3)
    capsys.readouterr()
    run_training(monkeypatch, halted, 3)
    assert "1/3" not in capsys.readouterr().out
    one = load_file(tmp_path / "whole" / "model.safetensors")
    other = load_file(halted / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def run_training(monkeypatch: pytest.MonkeyPatch, out: Path, steps: int) -> None:
    """Run the command that trains."""
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(out), "--steps", str(steps)])
    train.main()


def spoilt(*changes: tuple[KnownFact, int]) -> torch.Tensor:
    """The right answers, but for the facts that are named, which have another one."""
    other = dict(changes)
    return torch.tensor([other.get(prompt.fact, prompt.answer) for prompt in prompts()])


def shares(answers: torch.Tensor) -> dict[str, float | None]:
    """The measures where Dana is to live in the city of token 1, by an edit of its own."""
    found = compare_answers(prompts(), answers, [{DANA: 1}])
    return {name: ratio.value for name, ratio in found.items()}


def test_answers_are_counted_where_they_belong() -> None:
    perfect = shares(spoilt((DANA, 1)))
    assert set(perfect.values()) == {1.0}
    unedited = shares(spoilt())
    assert [unedited[name] for name in (OWN, PARAPHRASES, FIRST)] == [0, 0, 0]
    assert [unedited[name] for name in (SUBJECT, SURNAME, OTHERS)] == [1, 1, 1]
    job = next(fact for fact in facts() if fact.subject == DANA.subject and fact.relation == "job")
    lost = shares(spoilt((DANA, 1), (job, 2)))
    assert lost[SUBJECT] == pytest.approx(2 / 3)
    assert lost[SURNAME] == 1
    kin = next(fact for fact in facts() if fact.subject == "Quin Oak Ashdown")
    lost = shares(spoilt((DANA, 1), (kin, 2)))
    assert lost[SUBJECT] == 1
    assert lost[SURNAME] == pytest.approx(1 - 3 / (5 * 12))
    assert lost[OTHERS] == pytest.approx(1 - 3 / (1776 - 3))


def test_the_rows_of_the_specs_are_those_that_the_script_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = specs_folder() / "make_rows.py"
    spec = importlib.util.spec_from_file_location("make_rows", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    script.main()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    made = {path.relative_to(tmp_path): path.read_text() for path in written}
    assert len(made) == 13
    for name, text in made.items():
        assert (specs_folder() / name).read_text() == text


SPECS = sorted(specs_folder().rglob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(specs_folder())))
def test_specs_are_valid(path: Path) -> None:
    assert editspec.validate([path]).exit_code == 0


@pytest.mark.parametrize("name", ["one_fact", "copy"])
def test_specs_pass_their_checks(name: str) -> None:
    result = editspec.check(specs_folder() / f"{name}.yaml")
    assert result.exit_code == 0, result.to_text()


def test_the_bench_measures_facts_one_at_a_time_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = (each for each in EXPERIMENTS if each.name == "one")
    monkeypatch.setattr(bench_run, "EXPERIMENTS", [one])
    monkeypatch.setitem(vars(one), "specs", {"ours": one.specs["ours"]})
    result = editspec.bench_facts(tmp_path / "out", facts=1)
    (row,) = result.tables[0].rows
    assert row.n == 1
    assert row.measures.numbers[OWN] == 1
    assert row.measures.numbers[SUBJECT] > 0.9
    assert row.measures.numbers[OTHERS] > 0.99
    written = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    assert "One fact at a time" in (tmp_path / "out" / "facts.md").read_text()
    assert (tmp_path / "out" / "facts.png").read_bytes().startswith(b"\x89PNG")

    # What was asked is not asked again.
    def ask(*arguments: Any) -> torch.Tensor:
        raise AssertionError("the model is asked again")

    monkeypatch.setattr(bench_run, "read_answers", ask)
    assert editspec.bench_facts(tmp_path / "out", facts=1).to_dict() == result.to_dict()


def test_the_bench_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileError, match="no bench of editspec made it"):
        editspec.bench_facts(tmp_path, facts=1)
