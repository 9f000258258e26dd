"""Locks, plans and incremental builds: what is built is what the plan says, and nothing else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec.engine.lock import Lock, lock_path, read_lock
from editspec_compiler import SpecError
from tests.commands import contents, run, said


def five_edits() -> dict[str, Any]:
    def edit(number: int) -> dict[str, Any]:
        return {
            "name": f"edit-{number}",
            "layer": f"layer{6 - number % 2}",
            "source": {"latent": 2 + number, "mask": "mask.png"},
            "target": {"latent": 1, "mask": {"box": [2, 2, 10, 10]}},
            "solver": {"method": "direct", "steps": 5, "learning_rate": 0.01},
        }

    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": [edit(number) for number in range(1, 6)],
    }


def save(spec: dict[str, Any], comment: str = "") -> None:
    Path("spec.yaml").write_text(comment + yaml.safe_dump(spec, sort_keys=False))


def mask(left: int) -> None:
    image = Image.new("L", (16, 16))
    image.paste(255, (left, 2, left + 8, 12))
    image.save("mask.png")


@pytest.fixture
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a tiny model and a spec of five edits."""
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    mask(3)
    save(five_edits())
    return tmp_path


def statuses(edits: list[dict[str, Any]]) -> list[str]:
    return [edit["status"] for edit in edits]


def lock_of(name: str = "spec.yaml") -> Lock:
    found = read_lock(lock_path(Path(name)))
    assert found is not None
    return found


@pytest.mark.parametrize("rounds", [11, pytest.param(40, marks=pytest.mark.long)])
def test_plan_and_build_agree_over_random_changes(
    rounds: int, folder: Path, own_cache: Path
) -> None:
    rng = random.Random(0)
    spec = five_edits()
    said("build", "spec.yaml", "-o", "out")

    def of_an_edit(number: int) -> int:
        spec["edits"][number]["solver"]["steps"] += 1
        return number

    def of_a_place(number: int) -> int:
        spec["edits"][number]["target"]["latent"] += 100
        return number

    def of_the_mask(number: int) -> int:
        mask(rng.randrange(8))
        return 0

    def of_a_comment(number: int) -> int:
        return len(spec["edits"])

    def of_the_order(number: int) -> int:
        spec["edits"].append(spec["edits"].pop(number))
        return number

    def by_removing(number: int) -> int:
        if len(spec["edits"]) > 2:
            del spec["edits"][number]
        return number

    def by_adding(number: int) -> int:
        spec["edits"].insert(
            number, {**copy.deepcopy(spec["edits"][number]), "name": f"new-{rng.random()}"}
        )
        return number

    def of_the_sample(number: int) -> int:
        spec["statistics"]["seed"] = spec["statistics"].get("seed", 2) + 1
        return 0

    def by_losing_a_patch(number: int) -> int:
        digest = lock_of().edits[number].patch
        (own_cache / "patches" / f"{digest}.safetensors").unlink()
        (
            folder / f"out/patches/{number + 1:02d}-{spec['edits'][number]['name']}.safetensors"
        ).unlink()
        return number

    changes = [
        of_an_edit,
        of_a_place,
        of_the_mask,
        of_a_comment,
        of_the_order,
        by_removing,
        by_adding,
        of_the_sample,
        by_losing_a_patch,
    ]
    for round_ in range(rounds):
        change = changes[round_] if round_ < len(changes) else rng.choice(changes)
        count = len(spec["edits"])
        first = change(rng.randrange(count))
        before = Path("mask.png").read_bytes()
        save(spec, f"# round {round_}\n")
        planned = said("plan", "spec.yaml", "-o", "out")
        built = said("build", "spec.yaml", "-o", "out")["edits"]
        assert statuses(planned["edits"]) == statuses(built), change
        assert planned["to_build"] == sum(status != "up to date" for status in statuses(built))
        # What was built is what was compiled: this is measured, not said.
        assert [edit["seconds"]["compile"] > 0 for edit in built] == [
            s != "up to date" for s in statuses(built)
        ]
        if change is not of_the_mask and not (change in (of_the_order,) and first == count - 1):
            assert [edit["seconds"]["compile"] > 0 for edit in built] == [
                n >= first for n in range(len(built))
            ], change
        assert before == Path("mask.png").read_bytes()
        assert run("lock", "spec.yaml", "--check").exit_code == 0
    assert run("plan", "spec.yaml", "-o", "out", "--detailed-exitcode").exit_code == 0
    # The folder, brought up to date so often, is the one that a first build gives.
    for path in sorted(own_cache.rglob("*.safetensors")):
        path.unlink()
    lock = Path("spec.yaml.lock").read_bytes()
    Path("spec.yaml.lock").unlink()
    said("build", "spec.yaml", "-o", "fresh")
    assert contents(folder / "fresh") == contents(folder / "out")
    assert Path("spec.yaml.lock").read_bytes() == lock


def test_the_plan_names_what_changed(folder: Path) -> None:
    assert statuses(said("plan", "spec.yaml")["edits"]) == ["new"] * 5
    assert run("plan", "spec.yaml", "--detailed-exitcode").exit_code == 3
    assert run("plan", "spec.yaml").exit_code == 0
    said("build", "spec.yaml", "-o", "out")
    found = said("plan", "spec.yaml", "--detailed-exitcode")  # the cache has the patches, too
    assert statuses(found["edits"]) == ["up to date"] * 5
    assert all(edit["collateral"] > 0 and edit["steps"] == 0 for edit in found["edits"])
    spec = five_edits()
    spec["edits"][2]["solver"]["steps"] = 6
    spec["edits"][2]["target"]["mask"] = {"box": [2, 2, 10, 11]}
    save(spec)
    found = said("plan", "spec.yaml")
    assert statuses(found["edits"]) == ["up to date"] * 2 + ["changed"] + ["dependent"] * 2
    assert found["edits"][2]["because"] == [
        "target.mask.box[3]: 10.0 -> 11.0",
        "solver.steps: 5 -> 6",
    ]
    assert found["edits"][3]["because"] == ["edit-3"]
    assert (found["edits"][2]["steps"], found["edits"][2]["samples"]) == (
        6,
        0,
    )  # what reaches the layer is the same
    # layer6 lies behind layer5, which edit-3 changes: its C is not known; that of layer5 is.
    assert [edit["samples"] for edit in found["edits"][3:]] == [16, 0]
    mask(4)
    found = said("plan", "spec.yaml")
    assert "mask.png: its content" in found["edits"][0]["because"]
    spec["edits"].pop()
    save(spec)
    assert said("plan", "spec.yaml")["removed"] == ["edit-5"]
    text = run("plan", "spec.yaml").stdout
    assert "- edit-5: no longer in the spec" in text
    assert "4 of 4 edits to build" in text


def test_directions_that_solving_finds_are_planned_without(
    tiny_spec: Callable[..., Path], tmp_path: Path
) -> None:
    """C is known here, and D all the same only when the edit is solved."""
    spec = tiny_spec(
        tmp_path, directions="learned", solver="least-squares", preserve=[{"latent": 3}]
    )
    said("statistics", spec)
    (edit,) = said("plan", spec)["edits"]
    assert (edit["status"], edit["samples"]) == ("new", 0)


def test_other_weights_change_everything(folder: Path) -> None:
    said("build", "spec.yaml", "-o", "out")
    weights = load_file("tiny.safetensors")
    save_file(
        {name: tensor + 0 for name, tensor in weights.items()},
        "tiny.safetensors",
        {"other": "metadata"},
    )
    assert said("plan", "spec.yaml")["to_build"] == 0
    save_file({**weights, "noises.noise_0": weights["noises.noise_0"] + 1}, "tiny.safetensors")
    found = said("plan", "spec.yaml")
    assert statuses(found["edits"]) == ["changed"] * 5
    assert found["edits"][0]["because"][0].startswith("model.weights: ")


def test_conflicts_are_seen_before_anything_is_solved(folder: Path) -> None:
    spec = five_edits()
    one, two, three = spec["edits"][0], spec["edits"][2], spec["edits"][1]
    spec["edits"] = [one, {**two, "source": one["target"], "target": one["source"]}, three]
    save(spec)
    kinds = {
        tuple(c["edits"]): (c["kind"], c["overlap"]) for c in said("plan", "spec.yaml")["conflicts"]
    }
    # edit-2 is of another layer; that edit-3 pastes back what edit-1 copied stands in the spec.
    assert kinds == {("edit-1", "edit-3"): ("the second undoes the first", None)}
    spec["edits"][1] = {**two, "source": {**two["source"], "latent": 9}}
    save(spec)
    said("statistics", "spec.yaml")
    Path("spec.yaml.lock").unlink(missing_ok=True)
    (conflict,) = said("plan", "spec.yaml")["conflicts"]
    assert conflict["kind"] == "their directions overlap"  # the same context
    assert conflict["overlap"] == pytest.approx(1, abs=1e-6)
    spec["edits"][1]["target"] = {"latent": 77, "mask": {"box": [10, 10, 14, 14]}}
    save(spec)
    said("build", "spec.yaml", "-o", "out")
    (conflict,) = said("plan", "spec.yaml")["conflicts"]
    assert conflict["overlap"] < 0.999
    assert -1 < conflict["cosine"] < 1


def test_frozen_builds_obey_the_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("build", "spec.yaml", "-o", "out", "--frozen")
    assert result.exit_code == 1
    assert "There is no spec.yaml.lock" in result.stderr
    assert run("lock", "spec.yaml", "--check").exit_code == 1
    said("build", "spec.yaml", "-o", "out")
    lock = Path("spec.yaml.lock").read_bytes()
    # On another machine the cache is empty and there is no folder: all is built, and comes out the
    # same.
    monkeypatch.setenv("EDITSPEC_CACHE", str(folder / "another"))
    edits = said("build", "spec.yaml", "-o", "again", "--frozen")["edits"]
    assert statuses(edits)[0] == "missing"
    assert contents(folder / "again") == contents(folder / "out")
    spec = five_edits()
    spec["edits"][1]["rank"] = 2
    spec["edits"].append({**spec["edits"][0], "name": "one-more"})
    save(spec)
    before = contents(folder)
    for arguments in (
        ("build", "spec.yaml", "-o", "frozen", "--frozen"),
        ("lock", "spec.yaml", "--check"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "edit-2: rank: 1 -> 2" in result.stderr
        assert "one-more: not in the lock" in result.stderr
    assert contents(folder) == before
    assert Path("spec.yaml.lock").read_bytes() == lock
    save({**spec, "edits": five_edits()["edits"][::-1]})
    assert (
        "the order of the edits: edit-1, edit-2, edit-3, edit-4, edit-5 -> edit-5"
        in run("lock", "spec.yaml", "--check").stderr
    )


def test_artifacts_are_compared_where_the_environment_is_equal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said("lock", "spec.yaml")
    lock = lock_of()
    edits = [edit.model_copy(update={"rule": "0" * 64, "patch": "1" * 64}) for edit in lock.edits]
    Path("spec.yaml.lock").write_bytes(lock.model_copy(update={"edits": edits}).to_bytes())
    result = run("build", "spec.yaml", "-o", "out", "--frozen")
    assert result.exit_code == 1
    assert f"edit-1: patch: {'1' * 64} -> {lock.edits[0].patch}" in result.stderr
    elsewhere = [edit.model_copy(update={"environment": {"device": "abacus"}}) for edit in edits]
    Path("spec.yaml.lock").write_bytes(lock.model_copy(update={"edits": elsewhere}).to_bytes())
    assert run("build", "spec.yaml", "-o", "out", "--frozen").exit_code == 0
    # What could not be compared is told.
    told = run("build", "spec.yaml", "-o", "told", "--frozen").stdout
    assert "edit-1: could not be compared with the lock" in told
    assert "device: abacus -> cpu" in told
    assert "rule, patch differ" in told
    found = said("build", "spec.yaml", "-o", "told", "--frozen")["uncompared"]
    assert [each["name"] for each in found] == [edit.name for edit in lock.edits]
    assert found[0]["artifacts"] == ["rule", "patch"]
    # The control: nothing to tell in the environment of the lock.
    Path("spec.yaml.lock").write_bytes(lock.to_bytes())
    assert said("build", "spec.yaml", "-o", "same", "--frozen")["uncompared"] == []
    assert "compared" not in run("build", "spec.yaml", "-o", "same", "--frozen").stdout
    assert "uncompared" not in said("build", "spec.yaml", "-o", "same")


def test_lock_writes_what_build_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said("lock", "spec.yaml")
    alone = Path("spec.yaml.lock").read_bytes()
    monkeypatch.setenv("EDITSPEC_CACHE", str(folder / "another"))
    Path("spec.yaml.lock").unlink()
    said("build", "spec.yaml", "-o", "out")
    assert Path("spec.yaml.lock").read_bytes() == alone
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert [edit.patch for edit in lock_of().edits] == [
        edit["digest"] for edit in manifest["edits"]
    ]


def test_a_change_of_one_edit_is_a_small_change_of_the_lock(folder: Path) -> None:
    said("lock", "spec.yaml")
    before = Path("spec.yaml.lock").read_text().splitlines()
    spec = five_edits()
    spec["edits"][4]["solver"]["steps"] = 7
    save(spec)
    said("lock", "spec.yaml")
    after = Path("spec.yaml.lock").read_text().splitlines()
    assert len(before) == len(after)
    changed = [
        number for number, (was, now) in enumerate(zip(before, after, strict=True)) if was != now
    ]
    assert 0 < len(changed) <= 8
    assert changed[0] > before.index("- name: edit-5")


def test_two_merged_locks_are_not_believed(folder: Path) -> None:
    """Two branches that each add an edit to the same base, merged line by line."""
    spec = five_edits()
    ours, theirs = spec["edits"][1], spec["edits"][2]
    locks = []
    for edit in (ours, theirs):
        save({**spec, "edits": [spec["edits"][0], edit]})
        said("lock", "spec.yaml")
        locks.append(lock_of())
    merged = locks[0].model_copy(update={"edits": [*locks[0].edits, locks[1].edits[1]]})
    Path("spec.yaml.lock").write_bytes(merged.to_bytes())
    save({**spec, "edits": [spec["edits"][0], ours, theirs]})
    found = said("plan", "spec.yaml")["edits"]
    assert statuses(found) == ["up to date", "up to date", "dependent"]
    assert run("lock", "spec.yaml", "--check").exit_code == 1
    assert statuses(said("build", "spec.yaml", "-o", "out")["edits"]) == statuses(found)
    assert run("lock", "spec.yaml", "--check").exit_code == 0


def test_validate_understands_the_lock(folder: Path) -> None:
    assert said("validate", "spec.yaml")["lock"] is None
    said("lock", "spec.yaml")
    assert said("validate", "spec.yaml")["lock"] == []
    assert said("validate", "spec.yaml.lock")["valid"] is True
    spec = five_edits()
    spec["edits"][1]["rank"] = 2
    save(spec)
    assert said("validate", "spec.yaml")["lock"] == ["edit-2: rank: 1 -> 2"]
    text = Path("spec.yaml.lock").read_text()
    for bad, message in (
        (
            text.replace("- name: edit-1", "<<<<<<< ours\n- name: edit-1"),
            "a merge was not resolved",
        ),
        (text.replace("version: 1", "version: 2"), "spec.yaml.lock:3:10: version"),
        (text.replace("  loss: ", "  lost: "), "there is no lost in a lock"),
        (text.replace("format: editspec.lock", ""), "spec.yaml.lock:3:1: format"),
    ):
        Path("spec.yaml.lock").write_text(bad)
        for command in (
            ["validate", "spec.yaml"],
            ["validate", "spec.yaml.lock"],
            ["plan", "spec.yaml"],
        ):
            result = run(*command)
            assert (result.exit_code, message in result.stderr) == (2, True), (
                command,
                result.stderr,
            )
        with pytest.raises(SpecError):
            read_lock(Path("spec.yaml.lock"))
