"""Edits of facts by `build`, against the numbers of the programs of ROME, MEMIT and AlphaEdit.

tests/golden/transformer holds what the authors' own programs gave on two tiny models in float64.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.modalities.text.batches import pad_texts
from editspec_runtime.patches.patch import Patch, read_patch

GOLDEN = Path(__file__).parents[1] / "golden" / "transformer"
FACTS = json.loads((GOLDEN / "edits.json").read_text())
STATISTICS = {"corpus": "corpus.txt", "tokens": 2308, "seed": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models, each with the tokenizer, and the corpus."""
    for model in ("gpt2", "llama"):
        shutil.copytree(GOLDEN / "models" / model, tmp_path / model)
        weights = load_file(tmp_path / model / "model.safetensors")
        wide = {name: tensor.double() for name, tensor in weights.items()}
        save_file(wide, tmp_path / model / "model.safetensors")
        shutil.copy(GOLDEN / "tokenizer.json", tmp_path / model)
    shutil.copy(GOLDEN / "corpus.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def templates(name: str) -> list[str]:
    """The texts before the prompt that the program drew."""
    said = json.loads((GOLDEN / f"{name}.json").read_text())["templates"]
    flat = [text for group in said for text in ([group] if isinstance(group, str) else group)]
    return [text.removesuffix("{}") for text in flat if text != "{}"]


def pair(number: int) -> dict[str, Any]:
    """One of the facts as an entry of ``pairs``."""
    fact = FACTS[number]
    return {
        "source": {"text": fact["target"]},
        "target": {"prompt": fact["prompt"], "subject": fact["subject"]},
    }


def spec_of(
    name: str, edits: Sequence[Mapping[str, Any]], compatibility: str, **common: Any
) -> dict[str, Any]:
    """A spec whose edits share what the program was given."""
    whole = []
    for number, edit in enumerate(edits):
        texts = {"context": templates(name)}
        whole.append({"name": f"edit{number}", **texts, **common, **edit})
    return {
        "version": 1,
        "model": {"family": "transformer", "weights": name.rpartition("-")[2]},
        "statistics": STATISTICS,
        "precision": "float64",
        "compatibility": compatibility,
        "edits": whole,
    }


def build(spec: Mapping[str, Any]) -> list[tuple[Any, Patch]]:
    """Build a spec; each edit with its rules, and its patch."""
    Path("spec.json").write_text(json.dumps(spec))
    built = editspec.build("spec.json", "out")
    return [
        (read_rule(Path("out") / "rules" / each.path.name), read_patch(each.path))
        for each in built.edits
    ]


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Compare relative to the largest number."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max() / wanted.abs().max()) < tolerance


def second_moment() -> list[Tensor]:
    """C of the spec that was built, layer by layer."""
    return [each.moment.matrix for each in editspec.statistics("spec.json").moments]


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_rome(folder: Path, model: str) -> None:
    name = f"rome-{model}"
    golden = load_file(GOLDEN / f"{name}.safetensors")
    parameter = json.loads((GOLDEN / f"{name}.json").read_text())["weight"]
    for number in range(3):
        edit = {"layer": "layer1", "solver": "closed-form", **pair(number)}
        ((rule, patch),) = build(spec_of(name, [edit], "rome-2022"))
        if not number:
            close(second_moment()[0], golden["C"], 1e-10)
        (resolved,) = rule.rules
        close(resolved.context_keys[0], golden[f"edit{number}.k_star"], 1e-10)
        close(resolved.key[0, 0], golden[f"edit{number}.k_prompt"], 1e-10)
        close(patch.directions[parameter][0], golden[f"edit{number}.u"], 1e-10)
        delta = golden[f"edit{number}.v_trajectory.delta"][-1]
        close(resolved.value[0, 0] - golden[f"edit{number}.value_prompt"], delta, 1e-8)
        right, left = golden[f"edit{number}.right_vector"], golden[f"edit{number}.u"]
        close(patch.delta(parameter), right[:, None] * left, 1e-8)
        shutil.rmtree("out")
        Path("spec.json.lock").unlink()


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_rome_in_sequence(folder: Path, model: str) -> None:
    name = f"rome-{model}"
    golden = load_file(GOLDEN / f"{name}.safetensors")
    parameter = json.loads((GOLDEN / f"{name}.json").read_text())["weight"]
    edits = [{**pair(number)} for number in range(3)]
    built = build(spec_of(name, edits, "rome-2022", layer="layer1", solver="closed-form"))
    total = sum(patch.stored_change(parameter) for _, patch in built)
    wanted = golden["sequence.weight_change"]
    close(total, wanted, 1e-8)


def test_memit(folder: Path) -> None:
    golden = load_file(GOLDEN / "memit-llama.safetensors")
    names = json.loads((GOLDEN / "memit-llama.json").read_text())["weights"]
    edit = {
        "layers": ["layer1", "layer2"],
        "pairs": [pair(number) for number in range(3)],
        "solver": {"method": "least-squares", "collateral_weight": 20},
    }
    ((rule, patch),) = build(spec_of("memit-llama", [edit], "memit-2022"))
    for index, moment in enumerate(second_moment()):
        close(moment, golden[f"C.layer{index + 1}"], 1e-10)
    for index, parameter in enumerate(names):
        layer = f"layer{index + 1}"
        close(rule.rules[index].context_keys, golden[f"keys.{layer}"], 1e-8 if index else 1e-10)
        close(patch.delta(parameter), golden[f"delta.{layer}"], 1e-8)


def test_memit_of_one_fact(folder: Path) -> None:
    golden = load_file(GOLDEN / "memit-llama.safetensors")
    names = json.loads((GOLDEN / "memit-llama.json").read_text())["weights"]
    solver = {"method": "least-squares", "collateral_weight": 20}
    edit = {"layers": ["layer1", "layer2"], "solver": solver, **pair(0)}
    ((_, patch),) = build(spec_of("memit-llama", [edit], "memit-2022"))
    for index, parameter in enumerate(names):
        close(patch.delta(parameter), golden[f"alone.delta.layer{index + 1}"], 1e-8)


def test_alphaedit(folder: Path) -> None:
    golden = load_file(GOLDEN / "alphaedit-gpt2.safetensors")
    names = json.loads((GOLDEN / "alphaedit-gpt2.json").read_text())["weights"]
    first = {"pairs": [pair(0), pair(1)]}
    second = {**pair(2), "protect": "previous"}
    common = {
        "layers": ["layer1", "layer2"],
        "solver": {"method": "null-space", "threshold": 0.02, "ridge": 0.5},
    }
    built = build(spec_of("alphaedit-gpt2", [first, second], "alphaedit-2024", **common))
    for batch, (rule, patch) in enumerate(built):
        for index, parameter in enumerate(names):
            layer = f"layer{index + 1}"
            wanted = golden[f"batch{batch}.weight_change.{layer}"]
            close(rule.rules[index].context_keys, golden[f"batch{batch}.keys.{layer}"], 1e-8)
            close(patch.stored_change(parameter), wanted, 1e-8)


def test_protected_keys_are_those_right_after_their_edits(folder: Path) -> None:
    """The program adds the keys of a batch once, on the model that the batch leaves."""
    edits = [pair(0), {**pair(1), "protect": "previous"}, {**pair(2), "protect": "previous"}]
    solver = {"method": "null-space", "threshold": 0.02, "ridge": 0.5}
    common = {"layers": ["layer1", "layer2"], "solver": solver, "context": ["You can. "]}
    built = build(spec_of("alphaedit-gpt2", edits, "alphaedit-2024", **common))
    found = built[2][0].rules[1].preserved
    assert found is not None
    path = Path("gpt2")
    base = make_model("transformer", read_weights(path), origin=Origin(path), precision="float64")
    kept = [key_after(base, [patch for _, patch in built[:count]], 0) for count in (1, 2)]
    close(found.key[0, 0], kept[0], 1e-10)
    close(found.key[1, 0], key_after(base, [patch for _, patch in built[:2]], 1), 1e-10)
    # A later edit moves the key of the first fact.
    assert float((kept[1] - kept[0]).abs().max()) > 1e-6


def key_after(base: Any, patches: Sequence[Patch], number: int) -> Tensor:
    """The mean key of a fact at layer2 behind nothing and one text, on an edited model."""
    weights = dict(base.weights)
    for patch in patches:
        for name in patch.parameters:
            weights[name] = weights[name] + patch.stored_change(name)
    model = base.with_weights(weights)
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file("gpt2/tokenizer.json")
    fact = FACTS[number]
    head = fact["prompt"].partition("{}")[0] + fact["subject"]
    keys = []
    for text in ("", "You can. "):
        tokens = tokenizer.encode(text + head).ids
        keys.append(model.trace("layer2", pad_texts([tokens])).key[0, -1])
    return (keys[0] + keys[1]) / 2


def test_what_counts_more_is_preserved_better(folder: Path) -> None:
    def answer(*weights: float) -> tuple[Tensor, list[float]]:
        """The shares of two preserved facts, and how far the change moves the answer of each."""
        preserve = []
        for number, weight in enumerate(weights, start=1):
            preserve.append({**pair(number)["target"], "weight": weight})
        edit = {**pair(0), "preserve": preserve, "context": ["You can. "]}
        solver = {"method": "least-squares", "preserve_share": 0.9}
        given = spec_of("rome-gpt2", [edit], "", layer="layer1", solver=solver)
        del given["compatibility"]
        ((rule, patch),) = build(given)
        kept = rule.rules[0].preserved
        assert kept is not None
        change = patch.delta(rule.rules[0].parameter)
        moved = [float((change @ key[0].to(change)).norm()) for key in kept.key]
        return kept.key_weights.flatten(), moved

    same, before = answer(1, 1)
    assert same.tolist() == [0.5, 0.5]
    assert answer(7, 7)[1] == before
    shares, after = answer(9, 1)
    assert shares.tolist() == pytest.approx([0.9, 0.1])
    assert after[0] < before[0]
    assert after[1] > before[1]
