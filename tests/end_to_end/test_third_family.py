"""A modality and a family that the product does not know go through every command.

`tests/toy_text` registers an embedding, two linear layers and a softmax over letters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec_runtime.patches.patch import read_patch
from tests.commands import contents, run, said
from tests.toy_text import registered
from tests.toy_text.network import LETTERS, RandomTexts, Toy, encode

SPEC: dict[str, Any] = {
    "version": 1,
    "model": {"family": "toy", "weights": "toy.safetensors"},
    "statistics": {"texts": 40, "seed": 5},
    "precision": "float64",
    "edits": [
        {
            "name": "b-like-k",
            "layer": "second",
            "source": {"text": "k"},
            "target": {"text": "ab", "letter": 1},
            "solver": {"method": "least-squares", "collateral_weight": 0.0},
        },
        {
            "name": "c-like-d",
            "layer": "first",
            "source": {"text": "d"},
            "target": {"text": "c"},
            "context": [{"text": "c"}, {"text": "ce", "letter": 1}],
            "rank": 2,
            "solver": {"method": "direct", "steps": 400, "learning_rate": 0.05},
        },
    ],
    "checks": [
        {"measure": "target-error", "at_most": 0.01},
        {"measure": "patch-size", "at_most": 20_000},
        {
            "measure": "probability",
            "edit": "b-like-k",
            "place": {"text": "ab", "letter": 1},
            "of": "a",
            "at_least": 0.0,
        },
    ],
}


def toy_weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights: 16 letters, 6 features, 5 and 16 outputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "embedding.weight": normal(len(LETTERS), 6),
        "first.weight": normal(5, 6),
        "second.weight": normal(len(LETTERS), 5),
    }


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The family is registered, and a spec and its weights lie here."""
    monkeypatch.chdir(tmp_path)
    save_file(toy_weights(), "toy.safetensors")
    Path("spec.json").write_text(json.dumps(SPEC))
    with registered():
        yield


def value_of(weights: dict[str, Tensor], text: str) -> Tensor:
    """What the second layer says at the last letter of a text, by plain products."""
    embedding = weights["embedding.weight"][LETTERS.index(text[-1])]
    return weights["second.weight"] @ weights["first.weight"] @ embedding


def test_without_the_registry_the_family_is_unknown() -> None:
    """The negative control of all the rest."""
    assert said("validate", "spec.json")["valid"]
    names = said("families")["families"]
    assert "toy" in [each["name"] for each in names]


def test_every_command_takes_it() -> None:
    assert [edit["name"] for edit in said("validate", "spec.json")["edits"]] == [
        "b-like-k",
        "c-like-d",
    ]
    assert said("plan", "spec.json")["to_build"] == 2
    built = said("build", "spec.json", "-o", "out")["edits"]
    assert said("plan", "spec.json", "-o", "out")["to_build"] == 0
    patches = [edit["patch"] for edit in built]
    verified = said("verify", *patches, "--model", "toy.safetensors", "--spec", "spec.json")
    assert verified["verified"]
    assert all(patch["identical"] for patch in verified["patches"])
    said("apply", *patches, "--model", "toy.safetensors", "-o", "edited.safetensors")
    checked = said("check", "spec.json", "-o", "out")
    assert checked["passed"]
    assert len(checked["checks"]) == 5
    assert said("lock", "spec.json", "--check")["edits"]
    assert said("ci", "review", "spec.json", "-o", "review")["status"] == "passed"
    assert not list(Path("review").rglob("*.png"))
    assert said("inspect", "toy.safetensors", "--family", "toy")["vocabulary"] == len(LETTERS)
    assert said("inspect", patches[0])["family"] == "toy"
    assert said("statistics", "spec.json")["statistics"][0]["layer"] == "second"
    assert [rule["layer"] for rule in said("compile", "spec.json", "-o", "rules")["edits"]] == [
        "second",
        "first",
    ]


def test_the_edit_does_what_it_says() -> None:
    """After the first edit b says what k said, and a letter far away in C keeps its own."""
    (first, _) = said("build", "spec.json", "-o", "out")["edits"]
    said("apply", first["patch"], "--model", "toy.safetensors", "-o", "edited.safetensors")
    before, after = toy_weights(), load_file("edited.safetensors")
    wanted = value_of(before, "k")
    torch.testing.assert_close(value_of(after, "b"), wanted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(value_of(before, "b"), wanted, atol=0.1)
    assert torch.equal(after["first.weight"], before["first.weight"])
    patch = read_patch(Path(first["patch"]))
    assert patch.directions["second.weight"].shape == (1, 5)


def test_c_counts_letters_and_no_padding() -> None:
    """C is the mean of k k^T over all letters of all texts, worked out text by text."""
    model, sample = Toy(toy_weights()), RandomTexts(5, 40)
    total, count = torch.zeros(5, 5).double(), 0
    for number in range(40):
        for letter in sample.text(number):
            key = (
                model.weights["first.weight"]
                @ model.weights["embedding.weight"][LETTERS.index(letter)]
            )
            total += key[:, None] * key
            count += 1
    (found, _) = editspec.statistics("spec.json").moments
    dense = total / count
    torch.testing.assert_close(found.moment.matrix, dense, rtol=1e-12, atol=1e-12)
    padded = model.trace("second", encode([sample.text(n) for n in range(40)])).key
    rows = padded.reshape(-1, 5)
    assert not torch.allclose(rows.T @ rows / len(rows), dense, atol=1e-3)


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (("edits", 0, "source"), {"text": "z"}, "does not know the letters z"),
        (("edits", 0, "target"), {"text": "ab", "letter": 2}, "ab has 2 letters"),
        (("edits", 0, "layer"), "third", "there is no third"),
        (("edits", 0, "source"), {"latent": 1}, "unknown key latent"),
        (("latents",), {"seed": 1}, "unknown key latents"),
        (("checks", 0), {"measure": "efficacy", "at_least": 0.5}, "there is no measure"),
    ],
)
def test_what_is_wrong_is_said_in_its_place(
    place: tuple[Any, ...], change: Any, words: str
) -> None:
    spec = json.loads(json.dumps(SPEC))
    part = spec
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = change
    Path("bad.json").write_text(json.dumps(spec))
    result = run("validate", "bad.json")
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def test_what_only_some_modalities_can_is_said() -> None:
    result = run("tune", "spec.json", "-o", "tuned", "--edit", "c-like-d")
    assert result.exit_code == 2, result.output
    assert "Edits of the family toy cannot be tuned yet" in result.stderr
    # Before the work: the edit before it is not built either.
    assert "solving" not in result.stderr
    assert not Path("tuned").exists()


def test_edits_are_blamed_for_what_they_did_to_a_text() -> None:
    found = said("blame", "spec.json", "-o", "why", "--latent", 3)
    assert found["item"] == RandomTexts(5, 40).text(3)
    assert sum(each["share"] for each in found["edits"]) == pytest.approx(1, abs=1e-9)
    # There is no picture where the modality draws none.
    assert set(contents(Path("why"))) == {"blame.json"}
    ask = ("bisect", "spec.json", "--latent", 3, "--measure")
    assert said(*ask, "collateral", "--at-most", 0)["edit"] == "b-like-k"
    assert said(*ask, "collateral", "--at-most", 1)["edit"] is None
    for command, words in (
        (("blame", "spec.json", "-o", "x", "--latent", 3, "--mask", "m.png"), "A text has no mask"),
        ((*ask, "trace", "--at-most", 0), "A text has no trace"),
    ):
        result = run(*command)
        assert result.exit_code == 2, result.output
        assert words in result.stderr


def test_the_studio_says_that_it_does_not_show_it() -> None:
    before = contents(Path())
    result = run("studio", "spec.json", "--port", "0")
    assert result.exit_code == 2, result.output
    assert "The studio shows no edits of the family toy" in result.stderr
    assert "take validate, build and check" in result.stderr
    # No folder was made but the studio's own.
    found = {name: data for name, data in contents(Path()).items() if name[0] != "."}
    assert found == before


@pytest.mark.parametrize(
    "command",
    [
        ["render", "spec.json", "-o", "x.png"],
        ["search", "spec.json"],
        ["compare-layers", "spec.json"],
        ["build", "spec.json", "-o", "x", "--report"],
        ["render", "spec.json", "-o", "x.png", "--value"],
    ],
)
def test_commands_of_images_say_that_it_draws_none(command: list[str]) -> None:
    before = contents(Path())
    result = run(*command)
    assert result.exit_code == 2, result.output
    assert "The family toy does not draw images" in result.stderr
    assert "Take build, check, plan or verify" in result.stderr
    assert contents(Path()) == before  # before the work: nothing was built, no folder was made
    assert not Path("x").exists()


@pytest.mark.parametrize("command", ["sweep", "tune"])
def test_commands_that_need_a_judge_say_that_it_has_none(command: str) -> None:
    result = run(command, "spec.json", "-o", "out")
    assert result.exit_code == 2, result.output
    assert "Edits of the family toy cannot be" in result.stderr
    assert "what editspec check says" in result.stderr
    assert not Path("out").exists()
