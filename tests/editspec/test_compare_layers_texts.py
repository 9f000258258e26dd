"""``compare-layers`` of language models: causal traces, on a model whose facts lie in one layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import editspec
from editspec.worlds.atlas import WORLD
from editspec.worlds.atlas.bench.experiments import specs_folder
from editspec_compiler.modalities.text.schema import Fact
from editspec_compiler.modalities.text.tokens import open_tokenizer
from editspec_runtime.errors import UsageError
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.modalities.text.causal_trace import SAMPLES, trace_causes, window_of
from tests.commands import run, said

GOLDEN = Path(__file__).parents[1] / "golden" / "transformer"
ONE, HUNDRED = (specs_folder() / f"{name}.yaml" for name in ("one_fact", "hundred_facts"))
CAPTIONS = specs_folder().parent / "captions" / "dome_to_spire.yaml"


def test_the_layer_that_holds_the_facts_is_found(tmp_path: Path) -> None:
    """All but `layer1` were hidden from names in training: the facts lie there by construction."""
    found = said("compare-layers", ONE, "-o", tmp_path / "trace.png")
    assert found["best"] == "layer1"
    (fact,) = found["facts"]
    assert fact["answer"] == "Belmar"
    assert [fact["tokens"][place].strip() for place in fact["subject"]] == DANA.split()
    memory = [layer["last of the subject"] for layer in found["memory"]]
    assert memory[1] > 0.8
    assert max(memory[0], memory[2], memory[3]) < 0.1
    # Whatever is known passes the last token of the subject, and ends up in that of the prompt.
    states = found["state"]
    assert states[1]["last of the subject"] > 0.9
    assert states[3]["last of the prompt"] == pytest.approx(1, abs=1e-4)
    assert states[3]["last of the subject"] == pytest.approx(0, abs=1e-4)
    # Nothing before the subject is disturbed, so that nothing comes back there.
    assert all(row[0] == 0 for row in fact["memory"])
    with Image.open(tmp_path / "trace.png") as picture:
        assert picture.width > 400
    assert (
        "layer1 brings most back at the last token of the subject: 9"
        in run("compare-layers", ONE).stdout
    )


def test_several_facts_are_averaged_by_groups_of_tokens(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "{} lives in", "subject": name, "text": "Lumen"}
        for name in (DANA, "Quin Oak Ashdown", "Lumen")
    ]
    spec = {
        "version": 1,
        "model": {"family": "transformer", "weights": "builtin:atlas"},
        "edits": [{"name": "e", "layer": "layer2", "pairs": pairs}],
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    result = editspec.compare_layers(path)
    assert result.best == "layer1"
    own = [fact.grouped("memory")[1]["last of the subject"] for fact in result.facts]
    assert result.memory[1]["last of the subject"] == pytest.approx(sum(own) / len(own))
    assert len(result.facts) + result.left_out == 3
    assert result.to_text().count("layer") >= 5


DANA = "Dana Hazel Ashdown"


def model_of(name: str) -> Any:
    folder = GOLDEN / "models" / name
    weights = read_weights(folder)
    return make_model("transformer", weights, origin=Origin(folder), precision="float64")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_trace_is_what_whole_runs_give(name: str) -> None:
    """Each cell anew: sample by sample, the whole model, one state put back."""
    model = model_of(name)
    tokens, places = (5, 9, 31, 77, 12), (1, 2)
    found = trace_causes(model, tokens, places, 0.5, seed=4)
    width = model.embed(torch.tensor([tokens])).shape[-1]
    noise = torch.randn(
        SAMPLES, 2, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )

    def answer(sample: int | None, cell: tuple[str, int, int] | None) -> float:
        stream = model.embed(torch.tensor([tokens]))
        clean = stream.clone()
        if sample is not None:
            stream[0, list(places)] += 0.5 * noise[sample]
        for block in range(model.block_count):
            clean, known = model.run_block(block, clean)
            change = None
            if cell is not None and cell[0] == "memory" and near(cell[1], block):

                def change(value: torch.Tensor, known: torch.Tensor = known) -> torch.Tensor:
                    value = value.clone()
                    value[:, cell[2]] = known[:, cell[2]]
                    return value

            stream, _ = model.run_block(block, stream, change)
            if cell is not None and cell[:2] == ("state", block):
                stream[:, cell[2]] = clean[:, cell[2]]
        return float(model.next_logits(stream).softmax(-1)[0, found.answer])

    def near(block: int, other: int) -> bool:
        begin = block - window_of(model.block_count) // 2
        return begin <= other < begin + window_of(model.block_count)

    assert answer(None, None) == pytest.approx(found.clean)
    noisy = [answer(sample, None) for sample in range(SAMPLES)]
    assert sum(noisy) / SAMPLES == pytest.approx(found.corrupted)
    for cell in (("memory", 0, 2), ("memory", 1, 4), ("state", 1, 1), ("state", 0, 3)):
        wanted = sum(answer(sample, cell) for sample in range(SAMPLES)) / SAMPLES
        assert float(getattr(found, cell[0])[cell[1], cell[2]]) == pytest.approx(wanted, rel=1e-9)
        # A state that is put back changes something.
        assert (cell == ("memory", 1, 4)) or wanted != pytest.approx(found.corrupted, rel=1e-12)


def test_the_first_token_of_a_subject_is_found() -> None:
    tokenizer = open_tokenizer(WORLD.weights, None)
    for prompt, first in (("{} lives in", 1), ("You can visit {} in", 4)):
        fact = Fact(prompt=prompt, subject=DANA)
        assert tokenizer.first_place(fact) == first
        assert tokenizer.locate(fact).place == first + 2


def test_what_is_not_for_a_family_is_refused(tmp_path: Path) -> None:
    assert "--images is not for language models" in run("compare-layers", ONE, "--images", 9).stderr
    refused = run("compare-layers", CAPTIONS)
    assert refused.exit_code == 2
    assert "all read the same keys" in refused.stderr
    with pytest.raises(UsageError, match="changes no answer"):
        editspec.compare_layers(unknown(tmp_path))


def unknown(folder: Path) -> Path:
    """A spec about somebody of whom the model knows nothing."""
    spec = {
        "version": 1,
        "model": {"family": "transformer", "weights": "builtin:atlas"},
        "edits": [
            {
                "name": "e",
                "layer": "layer1",
                "target": {"prompt": "Dana Hazel {} speaks. Tara lives", "subject": "plays"},
                "source": {"text": "Lumen"},
            }
        ],
    }
    path = folder / "unknown.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path
