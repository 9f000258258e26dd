"""`blame` and `bisect` of prompts: which edit of a stack changed what a model says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from editspec.worlds.atlas import WORLD
from editspec_compiler.modalities.text.tokens import open_tokenizer
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.modalities.text.batches import pad_texts
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

DANA, QUIN = "Dana Hazel Ashdown", "Quin Oak Ashdown"
PROMPT = f"{DANA} lives in"
ASK = ("--prompt", PROMPT, "--text", "Lumen")


def edit(name: str, subject: str, text: str, **fields: Any) -> dict[str, Any]:
    """An edit of a home, found in a few steps."""
    return {
        "name": name,
        "layer": "layer1",
        "target": {"prompt": "{} lives in", "subject": subject},
        "source": {"text": text},
        "context": {"prefixes": 2, "length": 3},
        "optimise": {"evaluations": 12, "clamp": 0.6},
        **fields,
    }


EDITS = [
    edit("moves", DANA, "Lumen"),
    edit("other", QUIN, "Lumen"),
    edit("back", DANA, "Belmar"),
]
CHECKS = [
    {"measure": "efficacy", "at_least": 1},
    {"measure": "specificity", "name": "job", "edit": "moves", "at_least": 1}
    | {"facts": [{"prompt": "{} works as a", "subject": DANA}]},
    {"measure": "retention", "at_least": 1},
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a spec of three edits that is built; the cache of this module."""
    folder = tmp_path_factory.mktemp("blame")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITSPEC_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        spec = {
            "version": 1,
            "model": {"family": "transformer", "weights": "builtin:atlas"},
            "statistics": {"tokens": 4000},
            "edits": EDITS,
            "checks": CHECKS,
        }
        Path("spec.yaml").write_text(yaml.safe_dump(spec))
        said("build", "spec.yaml", "-o", "out")
        yield folder


@pytest.fixture(autouse=True)
def within(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("EDITSPEC_CACHE", str(here / "cache"))


def probability(members: tuple[int, ...]) -> float:
    """The probability of Lumen with some of the patches, computed from the files."""
    base = read_weights(WORLD.weights)
    paths = sorted(Path("out/patches").iterdir())
    weights = dict(base)
    for number in members:
        patch = read_patch(paths[number])
        for name in patch.parameters:
            weights[name] = (weights[name].double() + patch.delta(name)).float()
    model: Any = make_model("transformer", weights, origin=Origin(WORLD.weights))
    tokenizer = open_tokenizer(WORLD.weights, None)
    tokens = (*tokenizer.head, *tokenizer.encode(PROMPT).tokens)
    (wanted,) = tokenizer.encode(" Lumen").tokens
    with torch.no_grad():
        logits = model.outputs(pad_texts([tokens]))[0, -1]
    return float(logits.double().softmax(-1)[wanted])


def test_shares_are_those_of_all_orders_of_the_patches() -> None:
    found = said("blame", "spec.yaml", "-o", "why", *ASK)
    gained = [0.0] * 3
    orders = list(itertools.permutations(range(3)))
    for order in orders:
        for place, number in enumerate(order):
            before = probability(tuple(sorted(order[:place])))
            after = probability(tuple(sorted(order[: place + 1])))
            gained[number] += (after - before) / len(orders)
    whole = probability((0, 1, 2)) - probability(())
    shares = [each["share"] for each in found["edits"]]
    assert shares == pytest.approx([part / whole for part in gained], abs=1e-3)
    assert sum(shares) == pytest.approx(1)
    assert found["change"] == pytest.approx(abs(whole), abs=1e-5)
    # The edit that took the answer back works against the one that gave it.
    assert shares[0] > 0 > shares[2]
    assert abs(shares[1]) < min(shares[0], -shares[2])
    with Image.open("why/blame.png") as picture:
        assert picture.width > 300


def test_without_a_text_all_next_tokens_are_looked_at() -> None:
    found = said("blame", "spec.yaml", "-o", "all", "--prompt", f"{QUIN} lives in")
    shares = {each["name"]: each["share"] for each in found["edits"]}
    assert max(shares, key=shares.__getitem__) == "other"
    assert 0 < found["change"] <= 1
    assert (
        "of the probability of the next token"
        in run("blame", "spec.yaml", "-o", "all", "--prompt", f"{QUIN} lives in").stdout
    )


def test_bisect_finds_the_edit_after_which_an_answer_is_another() -> None:
    ask = ("bisect", "spec.yaml", "--measure", "probability")
    moved = ("--prompt", f"{QUIN} lives in", "--text", "Lumen")
    found = said(*ask, *moved, "--at-most", 0.3)
    assert found["edit"] == "other"
    assert found["before"] < 0.3 < found["after"]
    assert (found["at_most"], found["at_least"]) == (0.3, None)
    away = said("bisect", "spec.yaml", "--measure", "divergence", *moved[:2], "--at-most", 0.5)
    assert away["edit"] == "other"
    # What the first edit does, the last one takes back.
    kept = said(*ask, *ASK, "--at-most", 0.5)
    assert kept["edit"] is None
    assert kept["after"] == pytest.approx(probability((0, 1, 2)), abs=1e-5)
    assert probability((0,)) > 0.5
    assert said(*ask, *ASK, "--at-least", 0.5)["edit"] == "back"
    broken = run(*ask, *ASK[:3], "pilot", "--at-least", 0.9)
    assert broken.exit_code == 2
    assert "before the first edit already" in broken.stderr


def test_bisect_by_a_check_takes_its_bound() -> None:
    found = said("bisect", "spec.yaml", "--measure", "retention", "--edit", "moves")
    assert found["edit"] == "back"
    assert (found["before"], found["after"], found["at_least"]) == (1, 0, 1)
    assert found["item"] == "check retention of moves"
    kept = said("bisect", "spec.yaml", "--measure", "efficacy", "--edit", "other")
    assert kept["edit"] is None
    named = said("bisect", "spec.yaml", "--measure", "job")
    assert named["item"] == "check job of moves"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("blame -o no", "--prompt is missing"),
        ("blame -o no --latent 3", "--latent is not for language models"),
        ("blame -o no --prompt {}", "stands for a subject"),
        ("blame -o no --prompt x --mask {}", "--mask is not for language models"),
        ("bisect --measure trace --prompt x --at-most 1", "no measure trace of a prompt"),
        ("bisect --measure probability --prompt x --at-most 1", "--text is missing"),
        ("bisect --measure divergence --prompt x", "--at-most is missing"),
        ("bisect --measure divergence --prompt x --at-least 1", "--at-least is no bound"),
        ("bisect --measure divergence --prompt x --at-least 1 --at-most 1", "exclude each other"),
        ("bisect --measure perplexity", "no check perplexity"),
        ("bisect --measure efficacy", "is about 3 edits: moves, other, back"),
        ("bisect --measure job --edit back", "not about an edit back"),
        ("bisect --measure job --edit moves --at-most 0", "--at-most is no bound"),
    ],
)
def test_wrong_questions_are_refused(line: str, words: str) -> None:
    command, *rest = line.split()
    result = run(command, "spec.yaml", *rest)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert not Path("no").exists()
