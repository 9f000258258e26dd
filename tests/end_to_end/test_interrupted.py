"""Builds that are killed, interrupted, or two at once: the next run ends with the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec.engine.lock import lock_path, read_lock
from editspec_runtime.io.files import read_header
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.patches.patch import read_patch

# A server that has torch loaded forks each build at once: no half second of start-up to be killed
# in, over and over.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["editspec.commands.build"])


def built(folder: str, out: str, cache: str) -> None:
    """What the process that is killed does."""
    import torch

    from editspec.commands.build import build

    os.environ["EDITSPEC_CACHE"] = str(Path(folder, cache))
    torch.set_num_threads(1)
    build(Path(folder, "spec.yaml"), Path(folder, out), device="cpu")


def started(*arguments: str) -> Any:
    process = CONTEXT.Process(target=built, args=arguments)
    process.start()
    return process


def finish(process: Any) -> None:
    process.join()
    assert process.exitcode == 0


def five_edits(steps: int = 20) -> dict[str, Any]:
    place = {"latent": 1, "mask": {"box": [2, 2, 10, 10]}}
    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 32},
        "edits": [
            {
                "name": f"edit-{number}",
                "layer": f"layer{2 + number}",
                "source": {**place, "latent": 2 + number},
                "target": place,
                "solver": {"method": "direct", "steps": steps, "learning_rate": 0.01},
            }
            for number in range(5)
        ],
    }


@pytest.fixture
def folder(make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path) -> str:
    save_file(make_tiny(size=16), tmp_path / "tiny.safetensors")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(five_edits()))
    return str(tmp_path)


def whole_files(folder: str, *below: str) -> dict[str, bytes]:
    """Every file under a final name, each read as what it is; a part of one would be an error."""
    found = {}
    places = [Path(folder, name) for name in below]
    for path in [
        *Path(folder).glob("spec*"),
        *(path for place in places for path in sorted(place.rglob("*"))),
    ]:
        if not path.is_file() or path.suffix == ".part":
            continue
        if path.name == "manifest.json":
            listed = json.loads(path.read_text())["files"]
            assert all((path.parent / name).is_file() for name in listed)
        if path.parent.name == "patches":
            read_patch(path)
        elif path.parent.name == "rules":
            read_rule(path)
        elif path.suffix == ".safetensors":
            read_header(path)
        found[str(path.relative_to(folder))] = path.read_bytes()
    read_lock(lock_path(Path(folder, "spec.yaml")))
    return found


def results(files: dict[str, bytes], out: str) -> dict[str, bytes]:
    return {
        name.removeprefix(f"{out}/"): data
        for name, data in files.items()
        if name.startswith((f"{out}/", "spec"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("moments", [8, pytest.param(50, marks=pytest.mark.long)])
def test_killed_at_random_moments(folder: str, moments: int) -> None:
    process = CONTEXT.Process(target=kill_builds, args=(folder, moments))
    process.start()
    finish(process)
    assert int(Path(folder, "halfway").read_text()) >= moments // 5


FILES = 11
"""The files in the folder of a whole build: rules, patches, and the manifest."""


def count_files(folder: Path) -> int:
    """Count the finished files of a folder, which need not be there."""
    return sum(path.is_file() and path.suffix != ".part" for path in folder.rglob("*"))


def kill_builds(folder: str, moments: int) -> None:
    """Build, kill, build on, kill again, build to the end: each in a fork of this process, which
    has built before, so that a build is short.
    """
    fork = multiprocessing.get_context("fork")
    built(folder, "warm", "cache-warm")

    def once(out: str, cache: str, moment: float | None = None) -> float:
        """Build, or kill the build at a `moment` that is a count of files and a part of one."""
        process, begun = fork.Process(target=built, args=(folder, out, cache)), time.perf_counter()
        process.start()
        if moment is None:
            finish(process)
        else:
            # Files and not seconds: a machine that is busy at times builds slower at times.
            while process.is_alive() and count_files(Path(folder, out)) < int(moment):
                time.sleep(0.001)
            time.sleep(moment % 1 * duration / FILES)
            process.kill()
            process.join()
        return time.perf_counter() - begun

    Path(folder, "spec.yaml.lock").unlink()
    duration = 0.0
    duration = once("whole", "cache-whole")
    wanted = results(whole_files(folder, "whole"), "whole")
    assert len(wanted) == 13  # rules, patches, the manifest, the spec and its lock
    rng = random.Random(0)
    halfway = 0
    for attempt in range(moments):
        begun, again = divmod(attempt, 2)
        out, cache = f"out-{begun}", f"cache-{begun}"
        if not again:
            Path(folder, "spec.yaml.lock").unlink(missing_ok=True)
        once(out, cache, rng.uniform(0, FILES))
        found = results(whole_files(folder, out, cache), out)
        halfway += 2 < len(found) < 13
        if again:
            once(out, cache)
            assert results(whole_files(folder, out, cache), out) == wanted
    Path(folder, "halfway").write_text(str(halfway))


def test_two_builds_of_a_spec_at_once(folder: str) -> None:
    finish(started(folder, "alone", "other-cache"))
    wanted = results(whole_files(folder, "alone"), "alone")
    Path(folder, "spec.yaml.lock").unlink()
    for outs in (("same", "same"), ("one", "two")):
        Path(folder, "spec.yaml.lock").unlink(missing_ok=True)
        for process in [started(folder, out, f"cache-{outs[0]}") for out in outs]:
            finish(process)
        for out in outs:
            assert results(whole_files(folder, out), out) == wanted


def test_interrupted_by_a_person(program: Path, folder: str) -> None:
    spec = Path(folder, "spec.yaml")
    spec.write_text(yaml.safe_dump(five_edits(steps=100_000)))
    command = [program, "build", "spec.yaml", "-o", "out", "--threads", "1"]
    environment = os.environ | {"EDITSPEC_CACHE": str(Path(folder, "cache"))}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()  # the work has begun
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in errors
    spec.write_text(yaml.safe_dump(five_edits()))
    finish(started(folder, "out", "cache"))
    assert len(results(whole_files(folder, "out"), "out")) == 13
