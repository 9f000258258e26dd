"""A build that is killed half-way: nothing half-written lies under a final name, and the next run works."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec_runtime.patch import read_patch
from editspec_runtime.rule import read_rule


@pytest.fixture
def folder(make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path) -> Path:
    save_file(make_tiny(), tmp_path / "tiny.safetensors")
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 64},
        "edits": [
            {
                "name": f"edit-{number}",
                "layer": f"layer{8 - number}",
                "source": {**place, "latent": 2 + number},
                "target": place,
                "solver": {"method": "projected-gradient", "steps": 200},
            }
            for number in range(4)
        ],
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


def build(folder: Path, out: str, cache: str) -> subprocess.Popen[bytes]:
    # One thread: what the build computes must not wait for the cores that other tests use.
    command = [sys.executable, "-m", "editspec", "build", "spec.yaml", "-o", out, "--threads", "1"]
    environment = {**os.environ, "EDITSPEC_CACHE": str(folder / cache)}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for a build that must succeed; what it wrote to stderr."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def results(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.suffix != ".part" and path.is_file()
    }


def killed_after(process: subprocess.Popen[bytes], lines: int, moment: float) -> None:
    """Kill a build once it has reported so many times, and a moment more: no guess at how fast the machine is."""
    assert process.stderr is not None
    for _ in range(lines):
        process.stderr.readline()
    time.sleep(moment)
    process.kill()
    process.communicate()


def test_killed_at_any_moment(folder: Path) -> None:
    finish(build(folder, "whole", "cache-whole"))
    wanted = results(folder / "whole")
    rng = random.Random(0)
    halfway = 0
    # An edit reports the beginning and the end of its statistics, and of its solving.
    for attempt, lines in enumerate((1, 3, 6, 7, 9, 14)):
        killed_after(build(folder, "out", f"cache-{attempt}"), lines, rng.uniform(0, 0.05))
        found = results(folder / "out")
        halfway += 0 < len([name for name in found if name.startswith("patches/")]) < 4
        for name in found:
            if name.endswith(".safetensors"):
                (read_patch if name.startswith("patches/") else read_rule)(folder / "out" / name)
    assert halfway > 0
    finish(build(folder, "out", "cache-0"))
    assert results(folder / "out") == wanted


def test_interrupted_by_a_person(folder: Path) -> None:
    process = build(folder, "out", "cache")
    assert process.stderr is not None
    process.stderr.readline()  # the statistics have begun
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in errors
    finish(build(folder, "out", "cache"))


def test_two_builds_at_once(folder: Path) -> None:
    first, second = build(folder, "out", "cache"), build(folder, "out", "cache")
    for process in (first, second, build(folder, "alone", "other-cache")):
        finish(process)
    assert results(folder / "out") == results(folder / "alone")
