"""An edit that gets another name is not built again: its files are written under the new one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests.commands import contents, run, said


def spec_of(*names: str, moved: Any = None, **changes: Any) -> dict[str, Any]:
    """A spec whose edits differ by their numbers alone; the last one protects the others."""
    edits: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        edits.append(
            {
                "name": name,
                "layer": "layer5",
                "source": {"latent": 3 + number, "mask": {"box": [3, 2, 11, 12]}},
                "target": {"latent": 1, "mask": {"box": [2, 2, 10, 10]}},
                "solver": "least-squares",
            }
        )
    edits[-1]["protect"] = "previous"
    edits[0] |= changes
    spec: dict[str, Any] = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": edits,
    }
    return spec if moved is None else spec | {"moved": moved}


def save(spec: dict[str, Any]) -> None:
    Path("spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def statuses(edits: list[dict[str, Any]]) -> list[str]:
    return [edit["status"] for edit in edits]


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_cache: Path,
) -> Path:
    """A folder with three edits that are built, in a cache of its own."""
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    save(spec_of("one", "two", "three"))
    said("build", "spec.yaml", "-o", "out")
    return tmp_path


def build_anew(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, bytes], bytes]:
    """What a first build of the spec gives, where nothing is kept."""
    monkeypatch.setenv("EDITSPEC_CACHE", str(folder / "another"))
    Path("spec.yaml.lock").unlink()
    edits = said("build", "spec.yaml", "-o", "fresh")["edits"]
    assert set(statuses(edits)) == {"new"}
    return contents(folder / "fresh"), Path("spec.yaml.lock").read_bytes()


@pytest.mark.parametrize("as_list", [True, False])
def test_a_rename_builds_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, as_list: bool
) -> None:
    entry = {"from": "one", "to": "spires"}
    save(spec_of("spires", "two", "three", moved=[entry] if as_list else entry))
    plan = said("plan", "spec.yaml", "-o", "out")
    # What the last edit protects is named in the digest of the edit, and so in its patch.
    assert statuses(plan["edits"]) == ["moved", "up to date", "moved"]
    assert plan["edits"][0]["because"] == ["one -> spires"]
    assert (plan["to_build"], plan["removed"]) == (0, [])
    assert "nothing to build" in run("plan", "spec.yaml").stdout
    built = said("build", "spec.yaml", "-o", "out")["edits"]
    assert statuses(built) == ["moved", "up to date", "moved"]
    assert [set(edit["seconds"].values()) for edit in built] == [{0.0}] * 3
    found, lock = contents(folder / "out"), Path("spec.yaml.lock").read_bytes()
    assert "patches/01-spires.safetensors" in found
    assert not [name for name in found if "one" in name]
    # The entry has done its work, and may go.
    save(spec_of("spires", "two", "three"))
    assert statuses(said("plan", "spec.yaml")["edits"]) == ["up to date"] * 3
    assert run("verify", "out", "--model", "tiny.safetensors").exit_code == 0
    # It is what a first build gives, to the last byte.
    assert build_anew(monkeypatch, folder) == (found, lock)


def test_without_the_entry_everything_is_built_again() -> None:
    save(spec_of("spires", "two", "three"))
    plan = said("plan", "spec.yaml", "-o", "out")
    assert statuses(plan["edits"]) == ["new", "dependent", "dependent"]
    assert plan["removed"] == ["one"]


def test_the_folder_of_the_build_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine has an artifact, and nothing in its cache."""
    monkeypatch.setenv("EDITSPEC_CACHE", str(folder / "empty"))
    save(spec_of("spires", "two", "three", moved={"from": "one", "to": "spires"}))
    assert statuses(said("plan", "spec.yaml", "-o", "out")["edits"])[0] == "moved"
    assert statuses(said("plan", "spec.yaml")["edits"])[0] == "missing"
    said("build", "spec.yaml", "-o", "out")
    # Rules, too, lay under the former name: nothing was resolved, for which C would be taken.
    assert not (folder / "empty" / "statistics").exists()


def test_the_cache_is_enough(folder: Path) -> None:
    shutil.rmtree("out")
    save(spec_of("spires", "two", "three", moved={"from": "one", "to": "spires"}))
    assert statuses(said("build", "spec.yaml", "-o", "out")["edits"])[0] == "moved"


def test_what_changed_besides_the_name_is_built_and_named() -> None:
    entry = {"from": "one", "to": "spires"}
    save(spec_of("spires", "two", "three", moved=entry, rank=2))
    plan = said("plan", "spec.yaml", "-o", "out")
    assert statuses(plan["edits"]) == ["changed", "dependent", "dependent"]
    assert plan["edits"][0]["because"] == ["rank: 1 -> 2"]
    assert plan["removed"] == []


def test_a_new_name_and_a_new_place_are_told_apart() -> None:
    save(spec_of("two", "spires", "three", moved={"from": "one", "to": "spires"}))
    spec = yaml.safe_load(Path("spec.yaml").read_text())
    spec["edits"][0]["source"]["latent"], spec["edits"][1]["source"]["latent"] = 4, 3
    save(spec)
    plan = said("plan", "spec.yaml", "-o", "out")
    assert statuses(plan["edits"]) == ["dependent"] * 3
    assert plan["edits"][0]["because"] == ["one no longer comes before it"]


def test_a_frozen_build_wants_the_lock_to_have_the_name() -> None:
    save(spec_of("spires", "two", "three", moved={"from": "one", "to": "spires"}))
    for line in (("lock", "spec.yaml", "--check"), ("build", "spec.yaml", "-o", "f", "--frozen")):
        result = run(*line)
        assert (result.exit_code, "spires: one -> spires" in result.stderr) == (1, True)
        assert "no longer in the spec" not in result.stderr
    said("lock", "spec.yaml")
    assert run("lock", "spec.yaml", "--check").exit_code == 0
    assert run("build", "spec.yaml", "-o", "f", "--frozen").exit_code == 0


def test_an_entry_changes_no_digest() -> None:
    before = Path("spec.yaml.lock").read_bytes()
    save(spec_of("one", "two", "three", moved={"from": "long-ago", "to": "one"}))
    assert statuses(said("build", "spec.yaml", "-o", "out")["edits"]) == ["up to date"] * 3
    assert Path("spec.yaml.lock").read_bytes() == before
