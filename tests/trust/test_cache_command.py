"""``editspec cache``: sizes by kind, and pruning that spares what a running command uses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from editspec_runtime.io.cache import Cache
from tests.commands import run, said

DAY = 86_400


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two old entries, a new one, old weights, and a file of somebody else."""
    root = tmp_path / "cache"
    monkeypatch.setenv("EDITSPEC_CACHE", str(root))
    sizes = {"statistics/" + "a" * 64: 5000, "statistics/" + "b" * 64: 100, "rules/" + "c" * 64: 50}
    for name, size in sizes.items():
        path = root / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1" * size)
    weights = root / "weights" / ("d" * 64) / "town.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"1" * 9000)
    (root / "statistics" / "notes.txt").write_text("mine")
    for path in (*root.rglob("*"),):
        if "c" * 64 not in path.name:
            os.utime(path, (time.time() - 40 * DAY,) * 2)
    return root


def names(root: Path) -> set[str]:
    return {path.name[:4] for path in root.rglob("*") if path.is_file()}


def test_the_cache_is_described(root: Path) -> None:
    found = said("cache")
    assert (found["folder"], found["entries"], found["bytes"]) == (str(root), 4, 14150)
    kinds = {kind["name"]: (kind["entries"], kind["bytes"]) for kind in found["kinds"]}
    assert kinds == {"statistics": (2, 5100), "rules": (1, 50), "weights": (1, 9000)}
    assert "statistics: 2, 5.0 KiB" in run("cache").stdout


def test_pruning_removes_what_is_old_and_large(root: Path) -> None:
    found = said("cache", "prune", "--older-than", 30, "--larger-than", "1K")
    assert (found["removed"], found["removed_bytes"], found["entries"]) == (2, 14000, 2)
    assert names(root) == {"bbbb", "cccc", "note"}
    found = said("cache", "prune", "--older-than", 30)
    assert (found["removed"], found["entries"]) == (1, 1)
    found = said("cache", "prune", "--older-than", 0)
    assert (found["removed"], found["entries"]) == (1, 0)
    assert names(root) == {"note"}


def test_what_a_running_command_uses_is_never_pruned(root: Path) -> None:
    code = (
        "import sys; from editspec_runtime.io.cache import default_cache\n"
        "cache = default_cache()\n"
        f"cache.mark_use(cache.path('statistics', '{'a' * 64}'))\n"
        "print('marked', flush=True); sys.stdin.read()"
    )
    pipe, command = subprocess.PIPE, [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        old = root / "statistics" / ("a" * 64 + ".safetensors")
        # However long it runs: its use counts from its beginning.
        (running,) = (root / "running").iterdir()
        os.utime(running, (time.time() - 50 * DAY,) * 2)
        os.utime(old, (time.time() - 45 * DAY,) * 2)
        os.utime(root / "weights" / ("d" * 64), (time.time() - 60 * DAY,) * 2)
        os.utime(root / "weights" / ("d" * 64) / "town.safetensors", (time.time() - 60 * DAY,) * 2)
        assert said("cache", "prune", "--older-than", 30)["removed"] == 1
        assert old.is_file()
        process.kill()
    # Negative control: once it has ended, what it used is as old as it is.
    time.sleep(0.6)
    assert said("cache", "prune", "--older-than", 30)["removed"] == 2
    assert not list((root / "running").iterdir())


def test_reading_an_entry_marks_it_as_used(root: Path) -> None:
    cache = Cache(root)
    cache.tensors("statistics", "e" * 64, lambda: {"sums": torch.ones(2)})
    path = cache.path("statistics", "e" * 64)
    os.utime(path, (time.time() - 40 * DAY,) * 2)
    changed = path.stat().st_mtime_ns
    assert cache.find("statistics", "e" * 64) is not None
    assert path.stat().st_atime > time.time() - DAY
    assert path.stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune"],
        ["clean"],
        ["--older-than", 3],
        ["prune", "--older-than", "nan"],
        ["prune", "--larger-than", "much"],
        ["prune", "--older-than", -1],
    ],
)
def test_what_makes_no_sense_is_refused(root: Path, arguments: list[object]) -> None:
    before = names(root)
    assert run("cache", *arguments).exit_code == 2
    assert names(root) == before
