"""Folders of builds in the place of patches, and the order of more edits than two digits count."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from editspec.engine.patch_files import list_patch_files, number_files
from editspec_runtime.errors import FileError
from editspec_runtime.families.open import read_weights
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

BASE = "tiny.safetensors"


@pytest.fixture
def built(
    tiny_spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """The patches of five edits, in their order."""
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path, edits=5)
    assert run("build", "spec.yaml", "-o", "out").exit_code == 0
    return sorted(Path("out/patches").iterdir())


@pytest.mark.parametrize(("count", "first"), [(1, "01-e0"), (99, "01-e0"), (101, "001-e0")])
def test_names_sort_in_the_order_of_the_edits(count: int, first: str) -> None:
    names = number_files(f"e{number}" for number in range(count))
    assert names == sorted(names)
    assert names[0] == f"{first}.safetensors"


def test_a_folder_stands_for_its_patches_in_the_order_of_the_chain(built: list[Path]) -> None:
    assert list_patch_files(["out"]) == built
    assert list_patch_files(["out/patches"]) == built
    wanted = said("apply", "--model", BASE, *built, "--dry-run")["digest"]
    # Whatever the files are called, the chain tells the order.
    names = [f"{letter}.safetensors" for letter in "abcde"]
    random.Random(3).shuffle(names)
    renamed = [path.rename(path.with_name(name)) for path, name in zip(built, names, strict=True)]
    assert renamed != sorted(renamed)
    assert list_patch_files(["out"]) == renamed
    assert said("apply", "--model", BASE, "out", "--dry-run")["digest"] == wanted
    in_order_of_names = run("apply", "--model", BASE, *sorted(renamed), "--dry-run")
    assert in_order_of_names.exit_code == 1


def test_every_command_that_takes_patches_takes_a_folder(built: list[Path]) -> None:
    base = ("--model", BASE)
    commands: dict[str, tuple[tuple[object, ...], ...]] = {
        "verify": (base,),
        "apply": (base, ("-o", "edited.safetensors")),
        "compose": (("-o", "one.safetensors"),),
        "rebase": (base, ("-o", "again", "--keep-deltas")),
        "export": (("--format", "delta", "-o", "delta.safetensors"),),
    }
    for command, options in commands.items():
        given = [part for option in options for part in option]
        done = run(command, "out", *given)
        assert done.exit_code == 0, (command, done.stderr)
    audited = ("--base", BASE, "--edited", "edited.safetensors")
    assert said("audit", *audited, "out")["explained"]
    assert said("audit", *audited, "out/patches")["explained"]
    assert (
        read_weights(Path("edited.safetensors")).digest()
        == (read_patch(built[-1]).metadata["result"])
    )
    # Two folders that follow one another, and a folder with patches after it.
    Path("first/patches").mkdir(parents=True)
    for path in built[:2]:
        shutil.copy(path, "first/patches")
    assert said("verify", "first", *built[2:], *base)["verified"]


def test_an_edit_that_changes_nothing_keeps_its_place(built: list[Path]) -> None:
    from editspec_runtime.patches.patch import make_patch

    third = read_patch(built[2])
    left_out = ("content", "format", "version", "layouts")
    metadata = {name: value for name, value in third.metadata.items() if name not in left_out}
    metadata |= {"name": "nothing", "result": metadata["parent"]}
    nothing = make_patch(
        third.directions,
        {name: 0 * a for name, a in third.coefficients.items()},
        third.metadata["layouts"],
        metadata,
    )
    Path("out/patches/zz.safetensors").write_bytes(nothing.to_bytes())
    found = list_patch_files(["out"])
    assert found == [*built[:2], Path("out/patches/zz.safetensors"), *built[2:]]
    assert said("verify", "out", "--model", BASE)["verified"]


def test_a_folder_with_a_gap_or_a_stranger_is_refused(built: list[Path]) -> None:
    shutil.copytree("out", "gap")
    Path("gap/patches", built[2].name).unlink()
    assert run("verify", "gap", "--model", BASE).exit_code == 1
    shutil.copytree("out", "twice")
    shutil.copy(built[2], "twice/patches/extra.safetensors")
    assert run("verify", "twice", "--model", BASE).exit_code == 1
    Path("empty/patches").mkdir(parents=True)
    for folder in ("empty", "."):
        with pytest.raises(FileError, match="holds no patches"):
            list_patch_files([folder])


@pytest.mark.slow
def test_a_hundred_and_one_edits(
    tiny_spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path, edits=101, steps=1)
    built = run("build", "spec.yaml", "-o", "out")
    assert built.exit_code == 0, built.stderr
    files = sorted(Path("out/patches").iterdir())
    assert len(files) == 101
    assert files[0].name.startswith("001-")
    found = [
        said("apply", "--model", BASE, *patches, "--dry-run")["digest"]
        for patches in (files, ["out"])
    ]
    assert found == [read_patch(files[-1]).metadata["result"]] * 2
    # A spec that grows over a hundred edits takes its patches along.
    tiny_spec(tmp_path, edits=99, steps=1)
    assert run("build", "spec.yaml", "-o", "out").exit_code == 0
    assert sorted(Path("out/patches").iterdir())[0].name.startswith("01-")
    assert len(list(Path("out/patches").iterdir())) == 99
