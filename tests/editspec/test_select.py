"""Many specs in one build: patterns, and those that are selected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

import editspec
from editspec.engine.selection import expand_specs
from tests.commands import contents, run, said

pytestmark = pytest.mark.usefixtures("one_cache")

ONE, TWO, THREE = "specs/one.yaml", "specs/deeper/two.yaml", "specs/three.json"


def spec_of(*names: str, rank: int = 1) -> dict[str, Any]:
    edits = []
    for number, name in enumerate(names):
        edits.append(
            {
                "name": name,
                "layer": "layer5",
                "rank": rank,
                "source": {"latent": 3 + number, "mask": {"box": [3, 2, 11, 12]}},
                "target": {"latent": 1, "mask": {"box": [2, 2, 10, 10]}},
                "solver": {"method": "direct", "steps": 5, "learning_rate": 0.01},
            }
        )
    model = {"family": "stylegan2", "weights": str(Path("tiny.safetensors").resolve())}
    return {"version": 1, "model": model, "statistics": {"samples": 16}, "edits": edits}


def save(name: str, spec: dict[str, Any]) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec) if path.suffix == ".json" else yaml.safe_dump(spec))


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Three specs, and files beside them that are none."""
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    save(ONE, spec_of("domes", "spires"))
    save(TWO, spec_of("trees"))
    save(THREE, spec_of("spires-too"))
    save("specs/rows.json", [{"latent": 1}])  # type: ignore[arg-type]
    save("specs/tokenizer.json", {"version": "1.0", "model": {"type": "BPE"}})
    save("specs/other.yaml", {"name": "a workflow", "jobs": {}})
    return tmp_path


def built(*options: str, code: int = 0) -> tuple[dict[str, list[str]], list[str]]:
    """The statuses of the edits of each spec that was built, and the specs that were left."""
    found = said("build", "specs/**", "-o", "out", *options, code=code)
    specs = {each["spec"]: [e["status"] for e in each.get("edits", [])] for each in found["specs"]}
    return specs, found["left"]


def test_a_pattern_builds_each_spec_as_alone(folder: Path) -> None:
    specs, left = built()
    assert specs == {TWO: ["new"], ONE: ["new", "new"], THREE: ["new"]}
    assert left == []
    together, lock = contents(folder / "out" / ONE), Path(f"{ONE}.lock").read_bytes()
    Path(f"{ONE}.lock").unlink()
    said("build", ONE, "-o", "alone")
    assert contents(folder / "alone") == together
    assert Path(f"{ONE}.lock").read_bytes() == lock
    listed = said("build", ONE, THREE, "-o", "out")
    assert [each["spec"] for each in listed["specs"]] == [ONE, THREE]


def test_what_changed_is_selected_with_all_that_follows() -> None:
    assert built("--select", "state:modified+") == (
        {TWO: ["new"], ONE: ["new", "new"], THREE: ["new"]},
        [],
    )
    assert built("--select", "state:modified+") == ({}, [TWO, ONE, THREE])
    save(ONE, spec_of("domes", "spires", rank=2))
    Path(THREE).write_text(Path(THREE).read_text() + "\n")  # which changes nothing
    assert built("--select", "state:modified+") == (
        {ONE: ["changed", "changed"]},
        [TWO, THREE],
    )
    # Other weights under the same name change everything.
    save_file({"a": Tensor([0.0])}, "tiny.safetensors")
    found = said("build", "specs/**", "-o", "out", "--select", "state:modified+", code=1)
    assert [each["error"]["code"][:4] for each in found["specs"]] == ["E903"] * 3


def test_the_specs_with_an_edit_of_a_name_are_selected() -> None:
    assert built("--select", "domes+") == ({ONE: ["new", "new"]}, [TWO, THREE])
    assert built("--select", "spires*+") == (
        {ONE: ["up to date", "up to date"], THREE: ["new"]},
        [TWO],
    )
    # Several are added up.
    assert built("--select", "trees+", "--select", "domes+")[0] == {
        TWO: ["new"],
        ONE: ["up to date", "up to date"],
    }
    assert (
        "2 specs not selected" in run("build", "specs/**", "-o", "out", "--select", "domes+").stdout
    )


def test_a_wrong_spec_stops_no_other() -> None:
    save(TWO, {**spec_of("trees"), "edits": [{"name": "trees"}]})
    specs, _ = built(code=2)
    assert specs == {TWO: [], ONE: ["new", "new"], THREE: ["new"]}
    result = run("build", "specs/**", "-o", "out", "--select", "state:modified+")
    assert (result.exit_code, "layer is missing" in result.stdout) == (2, True)


MISTAKES = {
    "specs/** --select domes": "domes leaves out what follows from it",
    "specs/** --select dome+": "No spec has an edit dome",
    "specs/** --select state:new+": "There is no state:new",
    "nothing/** --select domes+": "No spec matches nothing/**",
    "specs/** --check --junit a.xml": "are of one spec",
    "specs/** --pick 3": "are of one spec",
    "../*.yaml specs/one.yaml": "No spec matches",
    "../one.yaml specs/one.yaml": "does not lie below the working folder",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_wrong_selection_builds_nothing(line: str, folder: Path) -> None:
    before = contents(folder)
    result = run("build", *line.split(), "-o", "out")
    assert (result.exit_code, MISTAKES[line] in result.stderr) == (2, True), result.stderr
    assert contents(folder) == before


def test_python_takes_a_list() -> None:
    result = editspec.build([ONE, "specs/deeper/*"], "out", select=["trees+"], device="cpu")
    assert [each.spec for each in result.specs] == [Path(TWO)]
    assert result.left == (Path(ONE),)
    with pytest.raises(editspec.EditError, match="of several specs"):
        editspec.build(ONE, "out", select=["trees+"])  # type: ignore[call-overload]


def test_a_broken_spec_is_found_by_a_pattern() -> None:
    Path("specs/broken.yaml").write_text("version: 1\nmodel: {family: [\n")
    Path("specs/broken.json").write_text('{"version": 1, "model": {')
    found = {str(path) for path in expand_specs(["specs/*"])}
    assert found == {ONE, THREE, "specs/broken.yaml", "specs/broken.json"}
