"""``plan`` of edits of texts: what is missing, what it costs, and which facts are nearly one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.stylegan2_1024 import measure_peak
from editspec.engine.estimates import Estimate, significant
from tests.commands import run, said

DANA, QUIN, TARA = "Dana Hazel Ashdown", "Quin Oak Ashdown", "Tara Ivy Quayle"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.chdir(tmp_path)


def fact(subject: str, text: str = "Lumen", prompt: str = "{} lives in") -> dict[str, str]:
    return {"prompt": prompt, "subject": subject, "text": text}


def write(*edits: list[dict[str, str]], evaluations: int = 5, **fields: Any) -> None:
    spec = {
        "version": 1,
        "model": {"family": "transformer", "weights": "builtin:atlas"},
        "statistics": {"tokens": 2560},
        "edits": [
            {
                "name": f"edit{number}",
                "layer": "layer1",
                "context": {"prefixes": 2, "length": 3},
                "optimise": {"evaluations": evaluations, "enough": 0},
                "pairs": pairs,
                "solver": "least-squares",
            }
            for number, pairs in enumerate(edits)
        ],
        **fields,
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))


def test_a_stage_that_is_short_is_not_none() -> None:
    seconds = significant({"statistics": 123.456, "targets": 0.0, "solve": 0.0001234})
    assert seconds == {"statistics": 123.0, "targets": 0.0, "solve": 0.000123}
    line = Estimate(0, 0, 0, 0, seconds).to_text()
    assert line.endswith("about 2 min (statistics 2 min, solve 0.1 s)")


def test_what_is_missing_is_counted_and_goes_down_as_the_cache_fills() -> None:
    write([fact(DANA), fact(QUIN), fact(TARA)])
    (first,) = said("plan", "spec.yaml")["edits"]
    cost = first["estimate"]
    assert (cost["tokens"], cost["targets"], cost["kept"]) == (2560, 3, 0)
    assert cost["seconds"]["statistics"] > 0 < cost["seconds"]["targets"]
    text = run("plan", "spec.yaml").stdout
    assert "C of 2560 tokens, 3 values to find, " in text
    assert re.search(r" GiB, about [\d.]+ s \(statistics ", text)
    # It solves nothing, and keeps nothing that a build would have to compute.
    assert said("plan", "spec.yaml")["edits"][0]["estimate"]["targets"] == 3
    said("build", "spec.yaml", "-o", "out")
    assert said("plan", "spec.yaml", "-o", "out")["edits"][0]["estimate"] is None
    # One fact changes: one value is missing, and C is there.
    write([fact(DANA), fact(QUIN, "Belmar"), fact(TARA)])
    (changed,) = said("plan", "spec.yaml")["edits"]
    cost = changed["estimate"]
    assert (cost["tokens"], cost["targets"], cost["kept"]) == (0, 1, 2)
    assert cost["seconds"]["statistics"] == 0
    assert "C cached, 1 value to find, 2 kept" in run("plan", "spec.yaml").stdout


def test_values_behind_an_edit_that_is_still_to_be_built_count_as_missing() -> None:
    write([fact(DANA)], [fact(QUIN), fact(TARA)])
    first, second = said("plan", "spec.yaml")["edits"]
    assert (first["estimate"]["targets"], second["estimate"]["targets"]) == (1, 2)
    assert second["estimate"]["kept"] == 0


def test_the_time_of_a_search_is_what_it_takes() -> None:
    """Within a factor of eight: the machine may be at other work, too."""
    write([fact(DANA), fact(TARA)], evaluations=40)
    estimated = said("plan", "spec.yaml")["edits"][0]["estimate"]["seconds"]["targets"]
    took = said("build", "spec.yaml", "-o", "out")["edits"][0]["seconds"]["targets"]
    assert took / 8 < estimated < 8 * took


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux counts it")
def test_the_memory_is_what_a_build_holds() -> None:
    write([fact(DANA), fact(QUIN)])
    (edit,) = said_by_itself("plan", "spec.yaml")
    estimated = edit["estimate"]["peak_memory"] / 2**20
    held = measure_peak([sys.executable, "-m", "editspec", "build", "spec.yaml", "-o", "x"], Path())
    assert 0.75 * held < estimated < 1.3 * held


def said_by_itself(*arguments: str) -> Any:
    """The edits of a plan by a process of its own, whose memory is not that of the tests."""
    command = [sys.executable, "-m", "editspec", *arguments, "--json", "-q"]
    done = subprocess.run(command, capture_output=True, check=True)
    return json.loads(done.stdout)["edits"]


def test_facts_of_nearly_one_key_are_named() -> None:
    """Two prompts that begin with a name have one key for it; other people have others."""
    write([fact(DANA), fact(DANA, "pilot", "{} works as a"), fact(TARA)], [fact(QUIN)])
    (overlap,) = said("plan", "spec.yaml")["overlaps"]
    assert set(overlap["facts"]) == {f"{DANA} lives in", f"{DANA} works as a"}
    assert overlap["edits"] == ["edit0", "edit0"]
    assert overlap["cosine"] > 0.99
    assert not overlap["known"]
    assert "are nearly parallel (layer1, cosine 1.00, C is not known yet)" in (
        run("plan", "spec.yaml").stdout
    )
    # Also of two edits, of which each would undo the other.
    write([fact(DANA)], [fact(DANA, "pilot", "{} works as a")])
    said("statistics", "spec.yaml")
    (overlap,) = said("plan", "spec.yaml")["overlaps"]
    assert overlap["edits"] == ["edit0", "edit1"]
    assert overlap["known"]
    write([fact(DANA), fact(TARA)])
    assert said("plan", "spec.yaml")["overlaps"] == []


def test_facts_given_twice_and_against_each_other_are_told() -> None:
    write([fact(DANA), fact(DANA)], [fact(DANA, "Belmar")])
    codes = [each["code"].split()[1] for each in said("plan", "spec.yaml")["warnings"]]
    assert codes == ["fact-twice", "fact-contradicted"]
