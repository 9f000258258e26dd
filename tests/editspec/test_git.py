"""Locks and patches in real repositories of git: merged edit by edit, and shown."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec.engine.git import ATTRIBUTES
from editspec.engine.lock import Lock, lock_path, read_lock
from editspec.engine.lock_merge import merge_locks
from tests.commands import git, run, said

pytestmark = pytest.mark.usefixtures("one_cache")


def three_edits() -> dict[str, Any]:
    def edit(number: int) -> dict[str, Any]:
        return {
            "name": f"edit-{number}",
            "layer": "layer5",
            "source": {"latent": 2 + number, "mask": {"box": [3, 2, 11, 12]}},
            "target": {"latent": 1, "mask": {"box": [2, 2, 10, 10]}},
            "solver": {"method": "direct", "steps": 2, "learning_rate": 0.01},
        }

    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": [edit(number) for number in (1, 2, 3)],
    }


def save(spec: dict[str, Any]) -> None:
    Path("spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def lock() -> Lock:
    found = read_lock(lock_path(Path("spec.yaml")))
    assert found is not None
    return found


def statuses() -> list[str]:
    return [edit["status"] for edit in said("plan", "spec.yaml")["edits"]]


@pytest.fixture(scope="module")
def interpreter(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs ``-m editspec`` as an interpreter does, in forks that begin at once."""
    made = tmp_path_factory.mktemp("interpreter") / "python"
    made.write_text(f'#!/bin/sh\nshift 2\nexec {program} "$@"\n')
    made.chmod(0o755)
    return made


@pytest.fixture
def repository(
    make_tiny: Callable[..., dict[str, Tensor]],
    interpreter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A repository with a spec, its lock and the patches of a build; git knows the drivers."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    save_file(make_tiny(size=16), "tiny.safetensors")
    save(three_edits())
    said("build", "spec.yaml", "-o", "out")
    git(folder, "init", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(interpreter))
        said("git", "install")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "A spec")
    return folder


def change_on_a_branch(folder: Path, branch: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Commit a changed spec and its new lock to a branch from main."""
    git(folder, "checkout", "-q", "-b", branch, "main")
    spec = three_edits()
    change(spec)
    save(spec)
    said("lock", "spec.yaml")
    git(folder, "commit", "-qam", branch)


def test_two_branches_merge_edit_by_edit(repository: Path) -> None:
    def change_first(spec: dict[str, Any]) -> None:
        spec["edits"][0]["rank"] = 2

    def add_one(spec: dict[str, Any]) -> None:
        spec["edits"].append({**copy.deepcopy(spec["edits"][2]), "name": "edit-4"})

    change_on_a_branch(repository, "ours", change_first)
    ours = lock()
    change_on_a_branch(repository, "theirs", add_one)
    theirs = lock()
    git(repository, "checkout", "-q", "ours")
    git(repository, "merge", "-q", "theirs")
    merged = lock()
    assert [edit.name for edit in merged.edits] == ["edit-1", "edit-2", "edit-3", "edit-4"]
    assert merged.edit("edit-1") == ours.edit("edit-1")
    assert merged.edit("edit-4") == theirs.edit("edit-4")
    # The spec is merged by lines; what is taken as it is, is right, and the rest is built.
    assert statuses() == ["up to date"] * 3 + ["dependent"]
    said("build", "spec.yaml", "-o", "out")
    Path("spec.yaml.lock").rename("merged.lock")
    said("build", "spec.yaml", "-o", "fresh")
    assert Path("spec.yaml.lock").read_bytes() == Path("merged.lock").read_bytes()


def test_without_the_driver_the_same_merge_is_a_conflict(repository: Path) -> None:
    """The control: lines alone do not merge what the test above merges."""

    def change_first(spec: dict[str, Any]) -> None:
        spec["edits"][0]["rank"] = 2

    def change_last(spec: dict[str, Any]) -> None:
        spec["edits"][2]["rank"] = 2

    change_on_a_branch(repository, "ours", change_first)
    change_on_a_branch(repository, "theirs", change_last)
    git(repository, "checkout", "-q", "ours")
    git(repository, "config", "--remove-section", "merge.editspec-lock")
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *identity, "merge", "-q", "theirs"], capture_output=True, text=True, check=False
    )
    assert "CONFLICT (content): Merge conflict in spec.yaml.lock" in done.stdout
    git(repository, "merge", "--abort")
    said("git", "install")  # of this interpreter, in a process of its own
    git(repository, "merge", "-q", "theirs")
    assert statuses() == ["up to date"] * 2 + ["changed"]


def test_settings_of_one_side_never_come_with_edits_of_another(repository: Path) -> None:
    """A mixture of both would say that edits of other settings are up to date."""

    def other_sample(spec: dict[str, Any]) -> None:
        spec["statistics"]["seed"] = 9

    def change_first(spec: dict[str, Any]) -> None:
        spec["edits"][0]["rank"] = 2

    change_on_a_branch(repository, "ours", change_first)
    change_on_a_branch(repository, "theirs", other_sample)
    theirs = lock()
    git(repository, "checkout", "-q", "ours")
    git(repository, "merge", "-q", "theirs")
    assert lock() == theirs
    assert statuses() == ["changed", "dependent", "dependent"]


def test_a_lock_that_both_sides_began_is_merged(repository: Path) -> None:
    git(repository, "rm", "-q", "--cached", "spec.yaml.lock")
    git(repository, "commit", "-qm", "No lock")
    Path("spec.yaml.lock").unlink()

    def change_first(spec: dict[str, Any]) -> None:
        spec["edits"][0]["rank"] = 2

    for branch, change in (("ours", change_first), ("theirs", lambda spec: None)):
        change_on_a_branch_with_a_new_lock(repository, branch, change)
    git(repository, "checkout", "-q", "ours")
    git(repository, "merge", "-q", "theirs")
    assert statuses() == ["up to date"] * 3


def change_on_a_branch_with_a_new_lock(
    folder: Path, branch: str, change: Callable[[dict[str, Any]], None]
) -> None:
    git(folder, "checkout", "-q", "-b", branch, "main")
    spec = three_edits()
    change(spec)
    save(spec)
    said("lock", "spec.yaml")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", branch)


def test_a_side_that_is_no_lock_is_a_conflict_of_git(repository: Path) -> None:
    def change_first(spec: dict[str, Any]) -> None:
        spec["edits"][0]["rank"] = 2

    change_on_a_branch(repository, "theirs", change_first)
    git(repository, "checkout", "-q", "-b", "ours", "main")
    Path("spec.yaml.lock").write_text("format: something else\n")
    git(repository, "commit", "-qam", "Broken")
    options = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *options, "merge", "theirs"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "CONFLICT" in done.stdout
    assert "One side of the merge of spec.yaml.lock is not a lock" in done.stderr
    assert Path("spec.yaml.lock").read_text() == "format: something else\n"


def edit(of: Lock, number: int, **fields: Any) -> Any:
    return of.edits[number].model_copy(update=fields)


def test_every_case_of_an_edit_merges_as_it_must(repository: Path) -> None:
    base = lock()
    one, two, three = base.edits

    def of(*edits: Any) -> Lock:
        return base.model_copy(update={"edits": list(edits)})

    mine, other = edit(base, 1, loss=1.0), edit(base, 1, loss=2.0)
    new, newer = edit(base, 0, name="new"), edit(base, 0, name="newer")
    cases = [
        (of(one, two, three), of(one, mine, three), of(one, mine, three), ()),
        (of(one, mine, three), of(one, two, three), of(one, mine, three), ()),
        (of(one, mine, three), of(one, other, three), of(one, mine, three), ("edit-2",)),
        (of(one, three), of(one, two, three), of(one, three), ()),  # removed by us
        (of(one, two, three), of(one, three), of(one, three), ()),  # removed by them
        (of(one, mine, three), of(one, three), of(one, mine, three), ("edit-2",)),
        (of(one, three), of(one, other, three), of(one, other, three), ("edit-2",)),
        (of(new, one, two, three), of(one, newer, two, three), of(new, one, newer, two, three), ()),
        (of(three, one, two), of(one, two, three), of(three, one, two), ()),
    ]
    for ours, theirs, expected, both in cases:
        merged = merge_locks(base, ours, theirs)
        assert [e.name for e in merged.lock.edits] == [e.name for e in expected.edits]
        assert (merged.lock, merged.both) == (expected, both)
    # Without a base, nothing is known to be removed.
    assert merge_locks(None, of(one, mine), of(one, other, three)).lock == of(one, mine, three)


@pytest.mark.slow
def test_git_diff_compares_patches(repository: Path) -> None:
    spec = three_edits()
    spec["edits"][0]["solver"]["learning_rate"] = 0.02
    save(spec)
    said("build", "spec.yaml", "-o", "out")
    name = "out/patches/01-edit-1.safetensors"
    shown = git(repository, "diff", "--", name)
    Path("before.safetensors").write_bytes(
        subprocess.run(["git", "show", f"HEAD:{name}"], capture_output=True, check=True).stdout
    )
    said_by_diff = run("diff", "before.safetensors", name).stdout.splitlines()
    assert shown.splitlines() == [f"patch {name}", *(f"  {line}" for line in said_by_diff)]
    assert "solver.learning_rate: 0.01 -> 0.02" in shown
    assert "cosine" in shown
    # The log compares lines, as git runs no command of a repository there.
    git(repository, "commit", "-qam", "Faster")
    logged = git(repository, "log", "-1", "-p", "--", name)
    assert "learning_rate: 0.02" in [line.removeprefix("+").strip() for line in logged.splitlines()]
    assert "+change of" in logged
    assert "Binary files" not in logged
    # What comes and goes, and what is not a patch.
    git(repository, "rm", "-q", name)
    assert git(repository, "diff", "HEAD", "--", name).splitlines()[:2] == [
        f"patch {name}",
        "  removed",
    ]
    git(repository, "reset", "-q", "--hard")
    Path(name).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "+ not a patch: 43 bytes" in git(repository, "diff", "--", name)


def test_install_adds_only_what_is_missing(repository: Path) -> None:
    assert said("git", "install")["added"] == []
    Path(".gitattributes").write_text("*.png binary")
    assert run("git", "install").exit_code == 0
    assert Path(".gitattributes").read_text() == f"*.png binary\n{ATTRIBUTES}"
    result = run("git", "install", "gone")
    assert (result.exit_code, "gone is not a folder" in result.stderr) == (2, True)


def test_install_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    result = run("git", "install", tmp_path)
    assert (result.exit_code, "git init" in result.stderr) == (2, True)
    assert not (tmp_path / ".gitattributes").exists()
