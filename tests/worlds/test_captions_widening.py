"""The second stage of the training of Skyline by prompt: words that linear maps can edit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from editspec.worlds.skyline.captions import JUDGE, PIPELINE, swaps, widening
from editspec.worlds.skyline.captions.drawing import draw_pictures
from editspec.worlds.skyline.captions.evaluate import draw_unseen
from editspec.worlds.skyline.captions.facts import draw_facts
from editspec.worlds.skyline.captions.grammar import draw_captions, list_phrases, write_captions
from editspec.worlds.skyline.captions.growth import grow_text_encoder
from editspec.worlds.skyline.captions.judge import load_judge
from editspec.worlds.skyline.captions.networks import (
    FIRST_WIDTH,
    WIDTH,
    join_weights,
    load_networks,
    load_pipeline,
    make_text_encoder,
    make_unet,
)
from editspec.worlds.skyline.captions.rewordings import Rewording
from editspec.worlds.skyline.captions.substitutions import list_substitutions, make_table
from editspec.worlds.skyline.captions.tokens import encode_texts
from editspec.worlds.skyline.captions.widening import (
    Losses,
    Metric,
    Student,
    describe_words,
    find_matrices,
    measure_unread,
    restore_subjects,
    solve_edit,
    widen_text_encoder,
)
from editspec_runtime.io.files import read_tensors


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def first_weights() -> dict[str, Tensor]:
    """Weights such as those of the first stage, but drawn by chance."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        unet, text_encoder = make_unet(FIRST_WIDTH), make_text_encoder(FIRST_WIDTH)
    return {name: part.detach() for name, part in join_weights(unet, text_encoder).items()}


def test_words_are_replaced_by_words_of_the_same_topic() -> None:
    pairs = set(list_substitutions())
    assert {("dome", "spire"), ("spires", "battlements"), ("lit", "dark")} <= pairs
    assert ("dome", "red") not in pairs  # of another topic
    assert ("two", "domes") not in pairs  # never in its place


def test_no_word_is_replaced_by_one_that_makes_a_held_out_phrase() -> None:
    held_out = {phrase.text for phrase in list_phrases() if phrase.held_out}
    facts, subjects = draw_facts(300, seeded(), held_out=False)
    captions = draw_captions(facts, subjects, seeded())
    seen = 0
    for word, other in [("dome", "spire"), ("domes", "spires"), ("red", "blue")]:
        replaced = make_table(word, other)[captions]
        fits = (replaced >= 0).all(1)
        assert not fits.all()  # some have a phrase that becomes a held-out one
        pairs = zip(write_captions(captions[fits]), write_captions(replaced[fits]), strict=True)
        for before, after in pairs:
            words = before.replace(",", " ,").split()
            assert [other if each == word else each for each in words] == (
                after.replace(",", " ,").split()
            )
            assert not held_out & set(after.split(", "))
            seen += before != after
    assert seen > 30


def test_a_grown_text_encoder_says_what_the_narrower_one_says(
    first_weights: dict[str, Tensor],
) -> None:
    _, narrow = load_networks(first_weights)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        grown, strange = grow_text_encoder(narrow), make_text_encoder()
    tokens, _ = encode_texts(draw_unseen(8, 3).texts)
    with torch.no_grad():
        wanted = narrow(tokens).last_hidden_state
        found, other = (each(tokens).last_hidden_state for each in (grown, strange))
    size = wanted.square().mean()
    assert float((found[..., :FIRST_WIDTH] - wanted).square().mean() / size) < 0.15
    assert float((other[..., :FIRST_WIDTH] - wanted).square().mean() / size) > 1
    assert found.shape[-1] == WIDTH


def test_matrices_answer_wider_states_as_they_answered_the_first() -> None:
    states = torch.randn(300, FIRST_WIDTH, generator=seeded(1))
    matrices = [torch.randn(80, FIRST_WIDTH, generator=seeded(seed)) for seed in (2, 3)]
    metric = Metric(matrices, states)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=seeded(4))).Q
    wide = torch.cat([states, torch.randn(300, WIDTH - FIRST_WIDTH, generator=seeded(5))], 1) @ turn
    readout = metric.root.T @ turn[:FIRST_WIDTH]
    for matrix in matrices:
        found = wide @ metric.read_matrix(matrix, readout).T
        assert torch.allclose(found, states @ matrix.T, atol=1e-3)


def test_an_edit_moves_what_it_can_tell_from_what_stays() -> None:
    told, kept = torch.eye(4)[:1].expand(3, 4), torch.eye(4)[1:]
    way = torch.ones(3, 2)
    edit = solve_edit(told, way, kept)
    assert torch.allclose(told @ edit, way, atol=1e-3)
    assert float((kept @ edit).abs().max()) < 1e-6
    blurred = solve_edit(told, way, told)  # the same states shall move and stay
    assert torch.allclose(told @ blurred, way / 2, atol=1e-3)


def test_words_of_a_phrase_are_described_up_to_its_comma() -> None:
    tokens, _ = encode_texts(["two domes, lit windows"])
    known = torch.unique(tokens).tolist()
    words = describe_words(tokens)[0]
    two, domes, comma, lit = (known.index(int(tokens[0, place])) for place in (1, 2, 3, 4))
    phrases = words[:, len(known) :]
    assert phrases[2, [two, domes, comma, lit]].tolist() == [1, 1, 0, 0]
    assert phrases[3, [two, domes, comma, lit]].tolist() == [1, 1, 1, 0]
    assert phrases[4, [two, domes, comma, lit]].tolist() == [0, 0, 0, 1]
    assert words[2, [two, domes]].tolist() == [0, 1]


def test_what_linear_maps_can_read_is_not_unread() -> None:
    words = (torch.rand(400, 3, generator=seeded()) < 0.5).float()
    turn = torch.randn(3, 5, generator=seeded(2))
    assert float(measure_unread(words @ turn + 1, words)) < 0.01
    strange = torch.randn(400, 5, generator=seeded(3))
    assert float(measure_unread(strange, words)) > 0.9


@torch.no_grad()
def test_subjects_are_given_back_what_they_say(
    first_weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widening, "SUBJECT_CAPTIONS", 256)
    unet, teacher = load_networks(first_weights)
    tokens, _ = encode_texts(["a cathedral, two domes", "a chapel, two domes"])
    states = teacher(tokens).last_hidden_state
    metric = Metric(list(find_matrices(unet).values()), states.flatten(0, 1))
    student = Student(teacher, metric)
    wider = student.text_encoder(tokens).last_hidden_state
    # The readout loses what tells a cathedral from a chapel.
    lost = torch.nn.functional.normalize(wider[0, 2] - wider[1, 2], dim=0)
    student.readout.weight -= torch.outer(student.readout.weight @ lost, lost)
    restored = restore_subjects(student, teacher, metric)
    wanted = states @ metric.root
    before = (student.readout(wider) - wanted).square().sum(2)[:, 2].sum()
    after = (wider @ restored.T - wanted).square().sum(2)[:, 2].sum()
    assert after < 0.2 * before
    domes = (wider[:, 4] @ (restored - student.readout.weight).T).square().sum()
    assert domes < 0.1 * wanted[:, 4].square().sum()


@pytest.mark.parametrize(("subject", "lit"), [("cathedral", (5, 6)), ("chapel", (0, 1))])
def test_windows_of_a_subject_are_lit_as_in_training(subject: str, lit: tuple[int, int]) -> None:
    pipeline, judge = load_pipeline(PIPELINE), load_judge(read_tensors(JUDGE))
    pipeline.set_progress_bar_config(disable=True)
    captions = [f"a {subject}, {tops}" for tops in ("two domes", "two spires", "two battlements")]
    captions += [f"{caption}, a red sky" for caption in captions]
    pictures = draw_pictures(pipeline, captions, 5, steps=4, guidance=1.0)
    assert lit[0] <= int(judge.read(pictures)["windows_lit"].sum()) <= lit[1]


@pytest.mark.slow
def test_the_second_stage_goes_on_and_goes_down(
    tmp_path: Path, first_weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps, "CAPTIONS", 24)
    monkeypatch.setattr(swaps, "FEWEST", 3)
    monkeypatch.setattr(widening, "SUBJECT_CAPTIONS", 64)
    steps: list[int] = []
    sums: list[float] = []

    def note(step: int, losses: Losses) -> None:
        steps.append(step)
        sums.append(losses.sum.item())

    widen_text_encoder(tmp_path, first_weights, 3, note)
    weights = widen_text_encoder(tmp_path, first_weights, 4, note)
    assert steps == [1, 2, 3, 4]
    assert all(torch.isfinite(torch.tensor(sums)))
    unet, _ = load_networks(weights)
    assert {part.shape[1] for part in find_matrices(unet).values()} == {WIDTH}
    for name, part in first_weights.items():
        if name.startswith("unet.") and "attn2.to_" not in name:
            assert torch.equal(weights[name], part), name


@pytest.mark.parametrize(
    "words", [{"dome": "spire", "domes": "spires"}, {"lit": "dark", "bright": "dark"}], ids=str
)
def test_the_model_that_ships_has_words_that_linear_maps_edit(words: dict[str, str]) -> None:
    """Solved on some captions, an edit holds in others, and moves few that lack the word."""
    pipeline = load_pipeline(PIPELINE)
    answers = torch.cat(list(find_matrices(pipeline.unet).values()))
    rewording = Rewording(words, (), 0, 1)

    def read(texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens, lengths = encode_texts(texts)
        with torch.no_grad():
            states = pipeline.text_encoder(tokens).last_hidden_state
        return states, torch.arange(states.shape[1]) <= lengths[:, None]

    def split(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        texts = draw_unseen(300, seed).texts
        having = [text for text in texts if rewording.change_text(text) != text][:80]
        lacking = [text for text in texts if rewording.change_text(text) == text][:80]
        states, is_word = read(having)
        changed, _ = read([rewording.change_text(text) for text in having])
        kept, known = read(lacking)
        return states[is_word], (changed - states)[is_word], kept[known]

    edit = solve_edit(*split(1)) @ answers.T
    keys, ways, kept = split(2)
    way = ways @ answers.T
    left = (keys @ edit - way).norm() / way.norm()
    assert float(left) < 0.3
    leak = (kept @ edit).norm() / way.norm()
    assert float(leak) < 0.2
    # Without the map all of the way is left, and one of all states moves all captions.
    everything = solve_edit(keys, ways, kept[:0]) @ answers.T
    assert float((kept @ everything).norm() / way.norm()) > float(leak)
