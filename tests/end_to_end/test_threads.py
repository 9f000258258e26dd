"""Builds with other numbers of threads, folders, locales, time zones and masks: the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.threads import SHARED
from editspec.worlds.registry import DEFAULT_WEIGHTS
from editspec_runtime.families.torch_module.source import run_factory
from tests.commands import contents, run, said

EXAMPLES = Path(__file__).parents[2] / "examples"

SURROUNDINGS: list[dict[str, Any]] = [
    {"threads": 1, "LC_ALL": "C", "TZ": "UTC", "umask": 0o022},
    {"threads": 2, "LC_ALL": "tr_TR.UTF-8", "TZ": "America/St_Johns", "umask": 0o077},
]

SOLVERS: list[dict[str, Any]] = [
    {"method": "projected-gradient", "steps": 8, "project_every": 4},
    {"method": "direct", "steps": 8},
    {"method": "least-squares"},
]


def write_skyline(folder: Path) -> None:
    """Write a spec of Skyline with an edit for each solver, one after the other."""
    edits = []
    for number, solver in enumerate(SOLVERS):
        edit = {
            "name": f"edit-{number}",
            "layer": "layer8",
            "rank": 4,
            "source": {"latent": 1268 + number, "mask": {"box": [4, 4, 28, 30]}},
            "target": {"latent": 1932 + number, "mask": {"box": [4, 4, 28, 30]}},
            "solver": solver,
        }
        edits.append(edit)
    model = {"family": "stylegan2", "weights": DEFAULT_WEIGHTS}
    spec = {"version": 1, "model": model, "statistics": {"samples": 48}, "edits": edits}
    (folder / "spec.yaml").write_text(json.dumps(spec))


def write_dcgan(folder: Path) -> None:
    """Write the example of a module, with random weights and fewer steps: ``dcgan.yaml``."""
    shutil.copy(EXAMPLES / "dcgan" / "dcgan.py", folder)
    text = (EXAMPLES / "dcgan" / "spec.yaml").read_text()
    (folder / "dcgan.yaml").write_text(text.replace("steps: 300", "steps: 8"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, _ = run_factory("dcgan:Generator", folder, allow_code=True)
    save_file(module.state_dict(), folder / "dcgan.safetensors")


BOTH = """
import sys
from pathlib import Path
from editspec.cli.main import app
command, spec, *options = sys.argv[1:]
for name in ("spec", "dcgan"):
    own = Path(spec).with_name(f"{name}.yaml")
    out = ["-o", own.with_name(f"out-{name}")]
    try:
        app([str(each) for each in (command, own, *options, *out)])
    except SystemExit as ended:
        if ended.code:
            raise
"""
"""A program that builds both specs of a project, one after the other."""


def build(place: Path, program: list[str], around: dict[str, Any]) -> dict[str, bytes]:
    """Build a copy of a project in surroundings of its own; return locks, patches and rules."""
    # Another folder, at another depth, for each.
    own = place.parent / f"{around['threads']}" / ("deep/" * around["threads"])
    shutil.copytree(place, own)
    threads = str(around["threads"])
    variables = {"LC_ALL": around["LC_ALL"], "LANG": around["LC_ALL"], "TZ": around["TZ"]}
    variables |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    variables["EDITSPEC_CACHE"] = str(own / "cache")
    command = [sys.executable, *program, "build", str(own / "spec.yaml")]
    command += [
        "-o",
        str(own / "out-spec"),
        "--threads",
        threads,
        "--allow-code",
        "--device",
        "cpu",
    ]
    elsewhere = own.parent if around["threads"] % 2 else Path("/")
    done = subprocess.run(
        command,
        cwd=elsewhere,
        env=os.environ | variables,
        umask=around["umask"],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    found = {path.name: path.read_bytes() for path in own.glob("*.lock")}
    for out in own.glob("out-*"):
        for kind in ("patches", "rules"):
            files = contents(out / kind)
            found |= {f"{out.name}/{kind}/{name}": data for name, data in files.items()}
    return found


@pytest.mark.slow
def test_a_build_gives_the_same_bytes_everywhere(tmp_path: Path) -> None:
    place = tmp_path / "project"
    place.mkdir()
    write_skyline(place)
    write_dcgan(place)
    first, other = [build(place, ["-c", BOTH], around) for around in SURROUNDINGS]
    assert len(first) == 2 + 2 * (len(SOLVERS) + 1)  # locks; patches and rules
    assert other == first
    assert all(b"threads" not in first[f"{name}.yaml.lock"] for name in ("spec", "dcgan"))


@pytest.mark.slow
def test_where_threads_share_operations_the_bytes_differ(tmp_path: Path) -> None:
    place = tmp_path / "project"
    place.mkdir()
    write_skyline(place)
    first, second = [build(place, ["-c", SHARED], around) for around in SURROUNDINGS]
    assert first.keys() == second.keys()
    assert first != second


def test_an_audit_between_two_numbers_of_threads_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_skyline(tmp_path)
    monkeypatch.chdir(tmp_path)
    for threads in (1, 2):
        monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / f"cache-{threads}"))
        out = f"out-{threads}"
        said("build", "spec.yaml", "-o", out, "--threads", threads)
    base = ("--model", DEFAULT_WEIGHTS)
    said("apply", "out-2", *base, "-o", "edited.safetensors")
    found = said("audit", "out-1", "--base", DEFAULT_WEIGHTS, "--edited", "edited.safetensors")
    assert found["explained"]
    assert not found["rounding"]
    again = said("verify", "out-1", *base, "--spec", "spec.yaml", "--threads", 4)
    assert all(patch["identical"] for patch in again["patches"])


@pytest.mark.slow
def test_sweeps_checks_and_moments_give_the_same_bytes(
    tmp_path: Path, tiny_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_skyline(tmp_path)
    spec = json.loads((tmp_path / "spec.yaml").read_text())
    spec["edits"] = [spec["edits"][1] | {"layer": "layer10"}]
    images = [{"latents": [200, 201, 202, 203], "mask": {"box": [4, 4, 28, 30]}}]
    spec["checks"] = [
        {"measure": "efficacy", "at_least": 0},
        {"measure": "collateral", "images": images, "at_most": 1},
        {"measure": "predicted-collateral", "at_most": 100},
    ]
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    monkeypatch.chdir(tmp_path)
    found = []
    for threads in (1, 4):
        monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / f"cache-{threads}"))
        Path("spec.yaml.lock").unlink(missing_ok=True)
        out, sweep, option = f"out-{threads}", f"sweep-{threads}", ("--threads", threads)
        moments = said("statistics", "spec.yaml", *option)
        said("build", "spec.yaml", "-o", out, *option)
        checks = said("check", "spec.yaml", "-o", out, *option)
        options = ("--ranks", "1,2", "--images", "8", *option)
        assert run("sweep", "spec.yaml", "-o", sweep, *options).exit_code == 0
        run("render", "spec.yaml", "-o", f"{threads}.png", "--count", "3", *option)
        picture = Path(f"{threads}.png").read_bytes()
        found.append((_plain(moments), _plain(checks), _sweep(Path(sweep)), picture))
    assert found[0] == found[1]


def _plain(answer: Any) -> str:
    """An answer as text, without the seconds and whether it was cached."""
    if isinstance(answer, dict):
        answer = {name: _plain(part) for name, part in answer.items() if "second" not in name}
    elif isinstance(answer, list):
        answer = [_plain(part) for part in answer]
    return json.dumps(answer)


def _sweep(folder: Path) -> tuple[str, dict[str, bytes]]:
    """The points of a sweep, its picture and the spec that won."""
    files = contents(folder)
    points = json.loads(files["sweep.json"])
    return _plain(points), {name: files[name] for name in ("sweep.png", "winner.yaml")}


class Spy(TorchDispatchMode):
    """A mode that records the operations that several threads may share."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        adding = ("mm", "sum", "mean", "linalg", "conv", "dot", "mv", "cholesky", "triangular")
        if torch.get_num_threads() > 1 and any(name in str(func) for name in adding):
            self.shared.add(str(func))
        return func(*args, **(kwargs or {}))


def test_no_command_shares_an_operation(
    tmp_path: Path, tiny_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checks = [
        {"measure": "efficacy", "at_least": 0, "severity": "warn"},
        {"measure": "retention", "at_least": 0, "severity": "warn"},
        {"measure": "collateral", "images": [{"latents": [1, 2]}], "at_most": 100},
    ]
    tiny_spec(tmp_path, edits=2)
    spec = json.loads(Path("spec.yaml").read_text())
    Path("spec.yaml").write_text(json.dumps(spec | {"checks": checks}))
    edits = [edit | {"solver": {"method": "least-squares"}} for edit in spec["edits"]]
    Path("smooth.yaml").write_text(json.dumps(spec | {"edits": edits}))
    base, edited, rank = "tiny.safetensors", "edited.safetensors", ("--rank", "1")
    torch.set_num_threads(2)
    for command in (
        ("build", "spec.yaml", "-o", "out"),
        ("build", "smooth.yaml", "-o", "smooth", "--pareto"),
        ("check", "spec.yaml", "-o", "out"),
        ("compile", "spec.yaml", "-o", "rules"),
        ("statistics", "spec.yaml"),
        ("lock", "spec.yaml"),
        ("plan", "spec.yaml", "-o", "out"),
        ("verify", "out", "--model", base, "--spec", "spec.yaml"),
        ("apply", "out", "--model", base, "-o", edited),
        ("audit", "smooth", "--base", base, "--edited", edited),
        ("diff", "out", "smooth"),
        ("diff", base, edited, "--picture", "diff.png"),
        ("compose", "out", "-o", "one.safetensors", *rank, "--spec", "spec.yaml"),
        ("rebase", "out", "--model", base, "-o", "rebased", "--spec", "spec.yaml"),
        ("export", "out", "--format", "peft", "-o", "peft"),
        ("render", "spec.yaml", "-o", "render.png", "--count", "2"),
        ("render", "spec.yaml", "-o", "key.png", "--key", "--count", "2"),
        ("sample", "spec.yaml", "-o", "sample.png", "--count", "3"),
        ("search", "spec.yaml", "--images", "16", "--count", "2", "-o", "found.png"),
        ("compare-layers", "spec.yaml", "--images", "4"),
        ("blame", "smooth.yaml", "-o", "why", "--latent", "3"),
        ("bisect", "spec.yaml", "--measure", "trace", "--latent", "3", "--at-most", "0"),
        ("sweep", "spec.yaml", "-o", "sweep", "--ranks", "1,2", "--images", "8"),
    ):
        with Spy() as spy:
            result = run(*command)
        failing = command[0] == "audit"
        assert (result.exit_code == 1) is failing, result.stderr
        assert not spy.shared, f"{' '.join(command)}: {sorted(spy.shared)}"
    with Spy() as spy:
        torch.ones(2, 2).mm(torch.ones(2, 2))
    assert spy.shared == {"aten.mm.default"}
