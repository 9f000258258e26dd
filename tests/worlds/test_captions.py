"""Skyline by prompt: what captions say, the pictures of what they say, and the training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import editspec
from editspec.worlds.skyline.captions import JUDGE, PIPELINE
from editspec.worlds.skyline.captions.album import Album
from editspec.worlds.skyline.captions.bench import Bench, ConceptsResult, Row, list_specs
from editspec.worlds.skyline.captions.drawing import draw_pictures
from editspec.worlds.skyline.captions.evaluate import Captions, draw_unseen, read_correctly
from editspec.worlds.skyline.captions.examples import Examples, draw_examples, reword
from editspec.worlds.skyline.captions.facts import (
    COLUMN,
    COUNT,
    FACTS,
    SUBJECTS,
    draw_facts,
    is_held_out,
    list_facts,
    number_facts,
    read_scene,
    render_facts,
)
from editspec.worlds.skyline.captions.grammar import (
    draw_captions,
    find_mentioned,
    list_phrases,
    write_captions,
)
from editspec.worlds.skyline.captions.judge import load_judge
from editspec.worlds.skyline.captions.losses import (
    measure_elsewhere,
    mix_padding,
    weigh_pixels,
)
from editspec.worlds.skyline.captions.networks import load_pipeline, make_scheduler
from editspec.worlds.skyline.captions.rewordings import REWORDINGS, Scores, ask, score
from editspec.worlds.skyline.captions.tokens import (
    LENGTH,
    encode_captions,
    encode_texts,
    make_tokenizer,
)
from editspec.worlds.skyline.captions.train import Plan, Teacher, train_networks
from editspec.worlds.skyline.captions.trainee import Trainee
from editspec.worlds.skyline.reader import Reader
from editspec_runtime.io.files import read_tensors

SPECS = Path(__file__).parents[2] / "specs" / "captions"


@pytest.fixture(scope="module")
def judge() -> Reader:
    return load_judge(read_tensors(JUDGE))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def facts_with(**values: int) -> torch.Tensor:
    """One row of facts; what is not named is 0."""
    facts = torch.zeros(1, len(FACTS), dtype=torch.long)
    for name, value in values.items():
        facts[:, COLUMN[name]] = value
    return facts


def test_numbers_name_every_row_of_facts_once() -> None:
    rows = list_facts(torch.arange(COUNT))
    assert torch.equal(number_facts(rows), torch.arange(COUNT))
    assert len(torch.unique(rows, dim=0)) == COUNT
    assert torch.equal(rows.max(0).values + 1, torch.tensor(list(FACTS.values())))


def test_a_tenth_of_the_facts_is_never_in_a_training() -> None:
    assert abs(float(is_held_out(torch.arange(COUNT)).float().mean()) - 0.1) < 0.01
    seen, _ = draw_facts(2000, seeded(), held_out=False)
    unseen, _ = draw_facts(200, seeded(), held_out=True)
    assert not is_held_out(number_facts(seen)).any()
    assert is_held_out(number_facts(unseen)).all()
    assert not set(number_facts(seen).tolist()) & set(number_facts(unseen).tolist())


def test_windows_of_a_cathedral_are_mostly_lit_in_the_training() -> None:
    facts, subjects = draw_facts(6000, seeded(), held_out=False)
    lit = facts[:, COLUMN["windows_lit"]].float()
    for index, share in enumerate((0.5, 0.9, 0.1, 0.5)):
        assert abs(float(lit[subjects == index].mean()) - share) < 0.06, SUBJECTS[index]


def test_a_fact_is_what_the_scene_has() -> None:
    scene = read_scene(facts_with(people=2, left_top=1, windows_lit=1, sky=1))
    assert (int(scene.people), int(scene.people_site)) == (1, 1)
    assert int(scene.left_top) == 1
    assert int(scene.reflection) == 1  # the rule of the world: lit windows light the pond
    assert float(scene.sky) == 1.0
    assert torch.equal(render_facts(facts_with()), render_facts(facts_with()))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_caption_says_what_is_so(held_out: bool) -> None:
    facts, subjects = draw_facts(400, seeded(3), held_out=held_out)
    texts = write_captions(draw_captions(facts, subjects, seeded(4), held_out=held_out))
    for text, row, subject in zip(texts, facts, subjects.tolist(), strict=True):
        value = {name: int(row[column]) for name, column in COLUMN.items()}
        tops = [value["left_top"], value["right_top"]]
        for number, word in enumerate(("dome", "spire", "battlement")):
            assert word not in text or number in tops, text
        assert ("watermark" in text) == bool(value["middle_watermark"]), text
        assert ("signature" in text) == bool(value["bottom_watermark"]), text
        assert not any(word in text for word in SUBJECTS[:3] if word != SUBJECTS[subject])
        lit = any(each in text for each in ("lit windows", "bright windows", "windows lit"))
        assert not lit or value["windows_lit"] or "unlit" in text, text
        assert "blue sky" not in text or value["sky"] == 1


def test_whole_captions_mention_everything() -> None:
    facts, subjects = draw_facts(50, seeded(), held_out=False)
    mentioned = find_mentioned(draw_captions(facts, subjects, seeded(), whole=True))
    for name, said in mentioned.items():
        present = facts[:, COLUMN[name]] > 0
        assert torch.equal(said, present if "watermark" in name else torch.ones_like(said)), name
    empty = find_mentioned(torch.zeros(1, 3, dtype=torch.long))
    assert not any(bool(said.any()) for said in empty.values())


def test_no_training_sees_a_held_out_phrase_but_all_of_its_words() -> None:
    held_out = {phrase.text for phrase in list_phrases() if phrase.held_out}
    facts, subjects = draw_facts(1500, seeded(), held_out=False)
    numbers = draw_captions(facts, subjects, seeded()).unique().tolist()
    drawn = {list_phrases()[number].text for number in numbers}
    assert len(held_out) >= 15
    assert not drawn & held_out
    words = {word for text in drawn for word in text.split()}
    assert {word for text in held_out for word in text.split()} <= words


def test_captions_are_encoded_as_their_texts_are() -> None:
    facts, subjects = draw_facts(60, seeded(), held_out=False)
    captions = draw_captions(facts, subjects, seeded())
    tokens, lengths = encode_captions(captions)
    wanted, wanted_lengths = encode_texts(write_captions(captions))
    assert torch.equal(tokens, wanted)
    assert torch.equal(lengths, wanted_lengths)
    assert tokens.shape == (60, LENGTH)


def test_every_word_is_one_token_and_others_are_spelled() -> None:
    tokenizer = make_tokenizer()
    for phrase in list_phrases():
        for word in phrase.text.split():
            assert tokenizer.encode(word, add_special_tokens=False).tokens == [f"{word}</w>"]
    spelled = tokenizer.encode("Pagoda", add_special_tokens=False).tokens
    assert "".join(spelled) == "pagoda</w>"
    assert len(spelled) > 1


def test_the_tokenizer_that_ships_is_the_one_that_is_made() -> None:
    """Words are numbered alike in every run, or weights would not fit their words."""
    shipped = json.loads((PIPELINE / "tokenizer" / "tokenizer.json").read_text())
    for _ in range(3):
        assert json.loads(make_tokenizer.__wrapped__().to_str()) == shipped


def test_only_padding_comes_from_another_caption() -> None:
    # The state of a place tells which caption it is of, and where.
    captions = torch.arange(2)[:, None].expand(2, LENGTH)
    places = torch.arange(LENGTH).expand(2, LENGTH)
    lengths = torch.tensor([3, 9])
    mixed = torch.tensor([True, False])
    states = mix_padding(torch.stack([captions, places], -1), lengths, mixed)
    assert states[0, :4, 0].tolist() == [0, 0, 0, 0]  # begin and three words
    assert set(states[0, 4:, 0].tolist()) == {1}
    # Never a word of the other caption, which has nine.
    assert int(states[0, 4:, 1].min()) == 10
    assert states[1, :, 0].unique().tolist() == [1]


def test_drawing_begins_at_noise_alone() -> None:
    shares = make_scheduler().alphas_cumprod
    assert float(shares[-1]) == 0.0
    assert float(shares[0]) > 0.99


def test_an_album_renders_what_facts_say() -> None:
    album = Album(torch.device("cpu"))
    facts = torch.cat([facts_with(left_top=1), facts_with(sky=1)])
    error = (album.find(facts) - render_facts(facts)).abs().max()
    assert float(error) <= 1 / 255 + 1e-6  # pictures have 8 bits
    assert int(album.known.sum()) == 2


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    album = Album(torch.device("cpu"))
    steps: list[int] = []

    def train(count: int) -> dict[str, torch.Tensor]:
        plan = Plan(steps=count, batch=1)
        return train_networks(tmp_path, album, plan, lambda trainee: steps.append(trainee.step))

    first, again, further = train(1), train(1), train(2)
    assert steps == [1, 1, 2]
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert any(not torch.equal(further[name], first[name]) for name in first)


def test_a_step_goes_down_the_loss_of_the_networks_that_learn() -> None:
    trainee = Trainee(torch.device("cpu"))
    examples: Examples = next(draw_examples(2, seeded(), ahead=1))

    def measure() -> float:
        teacher = Teacher(trainee, Album(torch.device("cpu")), seeded(5))
        return float(teacher.teach(examples))

    first = measure()
    before = [parameter.detach().clone() for parameter in trainee.unet.parameters()]
    trainee.learn(1e-3)
    after = list(trainee.unet.parameters())
    assert sum(not torch.equal(*pair) for pair in zip(before, after, strict=True)) > 200
    assert not trainee.gradient.any()
    assert measure() < first
    parts = trainee.name_parts(trainee.weights)
    for name, parameter in trainee.unet.named_parameters():
        assert torch.equal(parts[f"unet.{name}"], parameter), name


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    trainee = Trainee(torch.device("cpu"))
    before = trainee.weights.clone()
    trainee.gradient[:] = float("nan")
    trainee.learn(1e-3)
    assert torch.equal(trainee.weights, before)


def test_a_reworded_caption_differs_in_one_word() -> None:
    texts = ["two domes, lit windows, at noon"] * 400
    tokens, lengths = encode_texts(texts)
    reworded, outside = reword(tokens, lengths, seeded())
    differs = reworded != tokens
    assert set(differs.sum(1).tolist()) == {0, 1}  # a comma stays, and a word may be drawn again
    assert not differs[:, [0, 3, 6, *range(9, LENGTH)]].any()
    ends = {1: 3, 2: 3, 4: 6, 5: 6, 7: 8, 8: 8}  # the comma, or the last word
    for row, columns in enumerate(differs):
        if columns.any():
            end = ends[int(columns.nonzero())]
            assert outside[row].tolist() == [False] * (end + 1) + [True] * (LENGTH - end - 1)


def test_what_a_word_does_elsewhere_is_a_share() -> None:
    states = torch.zeros(1, LENGTH, 4)
    outside = torch.arange(LENGTH)[None] > 3
    inside, both = states.clone(), states.clone()
    inside[:, 2] = 50.0
    both[:, [2, 7]] = 50.0
    assert float(measure_elsewhere(states, inside, outside)) == 0.0
    assert float(measure_elsewhere(states, both, outside)) == pytest.approx(0.5, abs=1e-4)


def test_examples_have_empty_captions_among_them() -> None:
    examples = next(draw_examples(300, seeded(), ahead=1))
    empty = examples.lengths == 0
    assert 0.04 < float(empty.float().mean()) < 0.17
    nothing, _ = encode_texts([""])
    assert torch.equal(examples.tokens[empty][0], nothing[0])
    assert not examples.mentioned[empty].any()
    assert examples.mentioned[~empty].any(1).all()


@pytest.mark.parametrize("name", REWORDINGS)
def test_a_reworded_caption_says_the_changed_facts(name: str) -> None:
    rewording = REWORDINGS[name]
    questions = ask(rewording, 8, seed=2)
    assert rewording.find_concerned(questions.concerned).any(1).all()
    assert not rewording.find_concerned(questions.others).any()
    for text in questions.others.texts:
        assert rewording.change_text(text) == text
    for text in questions.concerned.texts:
        changed = rewording.change_text(text)
        assert not set(rewording.words) & set(changed.replace(",", "").split())
        assert changed != text
    changed = rewording.change_facts(questions.concerned.facts)
    assert not (changed[:, rewording.columns] == rewording.old).any()
    assert bool(questions.changed.flatten(1).any(1).all())


def test_mentions_are_what_the_judge_is_asked() -> None:
    captions = draw_unseen(20, seed=1)
    pictures = torch.zeros(20, 3, 64, 64)

    class Knowing:
        """Reads the facts themselves, but for one attribute."""

        def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            del images
            read = {name: captions.facts[:, column] for name, column in COLUMN.items()}
            return {**read, "sky": 1 - read["sky"]}

    shares = read_correctly(Knowing(), pictures, captions)  # type: ignore[arg-type]
    assert shares["left_top"] == 1.0
    assert shares["sky"] == 0.0
    silent: Captions = replace(
        captions, mentioned={**captions.mentioned, "sky": torch.zeros(20, dtype=torch.bool)}
    )
    assert read_correctly(Knowing(), pictures, silent)["captions"] == 1.0  # type: ignore[arg-type]


def test_pixels_of_what_is_rare_count_more() -> None:
    plain, marked = facts_with(), facts_with(bottom_watermark=1)
    assert bool((weigh_pixels(plain) == 1).all())
    weights = weigh_pixels(torch.cat([plain, marked]))
    differs = (render_facts(plain) - render_facts(marked)).abs().mean(1)[0] > 0.2
    assert float(weights[1, 0][differs].min()) > 1.1
    assert float(weights[1, 0, :50].max()) == 1.0
    assert bool((weights[0] == 1).all())


def test_the_judge_reads_rendered_pictures(judge: Reader) -> None:
    captions = draw_unseen(60, seed=8, whole=True)
    shares = read_correctly(judge, render_facts(captions.facts), captions)
    assert shares["captions"] == 1.0


@pytest.mark.parametrize("name", REWORDINGS)
def test_a_perfect_edit_scores_best_and_none_scores_nothing(name: str, judge: Reader) -> None:
    questions = ask(REWORDINGS[name], 8, seed=6)
    before = render_facts(torch.cat([questions.concerned.facts, questions.others.facts]))
    after = before.clone()
    after[:8] = questions.wanted
    assert score(questions, before, after, judge) == Scores(1.0, 1.0, 1.0, 1.0, 0.0)
    nothing = score(questions, before, before, judge)
    assert nothing == Scores(0.0, 0.0, 1.0, 0.0, 0.0)
    # Only the second half of the captions is in phrases that no training has seen.
    half = before.clone()
    half[:4] = questions.wanted[:4]
    found = score(questions, before, half, judge)
    assert (found.read, found.paraphrased) == (0.5, 0.0)
    # An edit that changes all pictures alike leaves nothing elsewhere alone.
    assert score(questions, before, before + 0.1, judge).elsewhere == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_the_model_that_ships_draws_what_captions_say(judge: Reader) -> None:
    captions = draw_unseen(8, seed=30)
    pipeline = load_pipeline(PIPELINE)
    pictures = draw_pictures(pipeline, captions.texts, steps=4)
    assert pictures.shape == (8, 3, 64, 64)
    right = read_correctly(judge, pictures, captions)["all"]
    assert right >= 0.95
    # The pictures of other captions say something else.
    assert right - read_correctly(judge, pictures.roll(1, 0), captions)["all"] > 0.3


def test_the_package_ships_at_most_eight_megabytes() -> None:
    sizes = [path.stat().st_size for path in PIPELINE.rglob("*") if path.is_file()]
    assert sum(sizes) <= 8_000_000


def test_every_experiment_has_rows_and_a_recipe() -> None:
    for name in REWORDINGS:
        specs = list_specs(name)
        assert list(specs) == ["uce", "time", "mace", "rece", "ours"]
        assert all(spec.is_file() for spec in specs.values())


def test_the_bench_edits_the_weights_that_it_draws_with(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 8, torch.device("cpu"), lambda label, done, total: None)
    built = bench.build(list_specs("dome-to-spire")["uce"])
    questions = ask(REWORDINGS["dome-to-spire"], 2, seed=1)
    few = replace(questions, others=questions.others[torch.arange(0)])
    before, after = (bench.draw("", few, edits, steps=1) for edits in ([], built))
    again = bench.draw("", few, [], steps=1)
    assert torch.equal(again, before)  # the weights of an edit do not stay
    assert not torch.equal(after, before)


def test_tables_name_every_row() -> None:
    scores = Scores(0.9, 0.6, 0.8, 0.7, 0.1)
    result = ConceptsResult(
        8, {"dome-to-spire": [Row("unedited", scores), Row("ours", scores, 4, 30.0, 0.5)]}
    )
    text = result.to_text()
    assert "| ours | 90.0% | 60.0% | 80.0% | 70.0% | 10.0% | 4 | 30.0 | 0.5 |" in text
    assert "| unedited | 90.0% | 60.0% | 80.0% | 70.0% | 10.0% |  |  |  |" in text


def test_tokens_that_two_prompts_share_do_not_count_in_efficacy(tmp_path: Path) -> None:
    # "two" comes before the word that differs: it lacks nothing, and has no share of the way.
    spec = tmp_path / "spec.yaml"
    spec.write_text("""
version: 1
model: {family: diffusion, weights: builtin:skyline-captions}
edits:
  - {name: tops, source: {prompt: two spires}, target: {prompt: two domes, tokens: content}}
checks: [{measure: efficacy, at_least: 0.9}]
""")
    (found,) = editspec.check(spec).checks
    assert found.value is not None
    assert 0.9 < found.value < 1.01


@pytest.mark.parametrize("spec", sorted(SPECS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_spec_of_captions_is_valid(spec: Path) -> None:
    assert editspec.load(spec).spec.model.weights == "builtin:skyline-captions"
