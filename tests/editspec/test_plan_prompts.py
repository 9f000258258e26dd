"""``plan`` of edits of concepts: what is missing, what it costs, and which concepts are one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stylegan2_1024 import measure_peak
from tests.commands import run, said

pytest.importorskip("diffusers")

PIPELINE = Path(__file__).parents[1] / "golden" / "diffusion" / "pipeline"
VAN_GOGH = {"source": {"prompt": "art"}, "target": {"prompt": "van gogh"}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    shutil.copytree(PIPELINE, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("a photo of a dog\na church by the sea\n")


def write(*edits: dict[str, Any]) -> None:
    named = [{"name": f"edit{number}", **edit} for number, edit in enumerate(edits)]
    spec = {
        "version": 1,
        "model": {"family": "diffusion", "weights": "model"},
        "statistics": {"prompts": "captions.txt"},
        "edits": named,
    }
    Path("spec.json").write_text(json.dumps(spec))


def test_tokens_and_what_is_missing_are_counted() -> None:
    write(VAN_GOGH | {"context": [{"prompt": "by van gogh", "tokens": "content"}]})
    (planned,) = said("plan", "spec.json")["edits"]
    cost = planned["estimate"]
    # The last token of the target, and each of the three of the phrasing.
    assert cost["places"] == len(_edited())
    # The empty prompt is always among those of C; each has as many tokens as the encoder reads.
    window = _window()
    assert cost["tokens"] == 3 * window
    assert cost["targets"] == cost["kept"] == 0
    assert cost["seconds"]["statistics"] > 0 < cost["seconds"]["solve"]
    assert f"tokens to edit, C of {3 * window} tokens, " in run("plan", "spec.json").stdout
    said("build", "spec.json", "-o", "out")
    assert said("plan", "spec.json", "-o", "out")["edits"][0]["estimate"] is None
    write(VAN_GOGH | {"preserve": [{"prompt": "monet"}]})
    (changed,) = said("plan", "spec.json")["edits"]
    assert (changed["estimate"]["places"], changed["estimate"]["tokens"]) == (1, 0)
    assert "1 token to edit, C cached, " in run("plan", "spec.json").stdout


def _edited() -> list[int]:
    """The edited tokens of all prompts, as `validate` shows them."""
    (edit,) = said("validate", "spec.json")["edits"]
    return [place for key in edit["keys"] for place in key["positions"]]


def _window() -> int:
    config = json.loads(Path("model/text_encoder/config.json").read_text())
    return int(config["max_position_embeddings"])


@pytest.mark.long  # of texts, the same is tested with every change
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux counts it")
def test_the_memory_is_what_a_build_holds() -> None:
    write(VAN_GOGH)
    command = [sys.executable, "-m", "editspec"]
    held = measure_peak([*command, "build", "spec.json", "-o", "out"], Path())
    write(VAN_GOGH | {"preserve": [{"prompt": "monet"}]})
    # In a process of its own, as what this one holds by now would count.
    told = subprocess.run(
        [*command, "plan", "spec.json", "--json"], capture_output=True, check=True
    )
    (planned,) = json.loads(told.stdout)["edits"]
    estimated = planned["estimate"]["peak_memory"] / 2**20
    assert 0.7 * held < estimated < 2 * held


def test_concepts_of_nearly_one_key_are_named() -> None:
    castle = {"source": {"prompt": "castle"}, "target": {"prompt": "van  gogh "}}
    church = {"source": {"prompt": "castle"}, "target": {"prompt": "church"}}
    write(VAN_GOGH, castle, church)
    (overlap,) = said("plan", "spec.json")["overlaps"]
    assert overlap["facts"] == ["van gogh", "van  gogh "]
    assert overlap["edits"] == ["edit0", "edit1"]
    assert overlap["cosine"] > 0.99
    assert "are nearly parallel" in run("plan", "spec.json").stdout
    write(VAN_GOGH, church)
    assert said("plan", "spec.json")["overlaps"] == []


def test_concepts_given_twice_and_against_each_other_are_told() -> None:
    write(VAN_GOGH, VAN_GOGH, VAN_GOGH | {"source": {"prompt": "castle"}})
    codes = [each["code"].split()[1] for each in said("plan", "spec.json")["warnings"]]
    assert codes == ["fact-twice", "fact-contradicted"]
    # Other matrices of the same concept are another matter.
    write(VAN_GOGH | {"layers": "to_k"}, VAN_GOGH | {"layers": "to_v"})
    assert said("plan", "spec.json")["warnings"] == []
