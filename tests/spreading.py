"""What the tests of executors share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

import editspec
from editspec.engine.model_session import ModelSession
from editspec.engine.resources import use_executor
from editspec.engine.session import BuildSession
from editspec_compiler import load
from editspec_runtime.core.executor import Executor, InProcess
from editspec_runtime.core.progress import no_progress
from editspec_runtime.executors.local import LocalProcesses
from editspec_runtime.families.travelling import TravellingModels
from tests.cases import tiny_stylegan2

LONG = 30
"""Blocks of the run that is killed."""

PATIENCE = 600
"""Seconds after which work counts as work that hangs."""


def spec(samples: int, layer: str = "layer5", **settings: Any) -> str:
    place = {"latent": 1, "mask": {"box": [2, 2, 20, 20]}}
    edit = {
        "name": "one",
        "layer": layer,
        "source": {**place, "latent": 2},
        "target": place,
        "solver": {"method": "direct", "steps": 5},
        **settings,
    }
    return yaml.safe_dump(
        {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
            "statistics": {"samples": samples},
            "edits": [edit],
        }
    )


def write_specs(folder: Path) -> None:
    """Write a tiny StyleGAN2, a spec of five blocks of it, and a long one."""
    save_file(tiny_stylegan2(), folder / "tiny.safetensors")
    (folder / "tiny.yaml").write_text(spec(256 * 5))
    (folder / "long.yaml").write_text(spec(256 * LONG))


def blocks(cache: Path) -> list[Path]:
    return sorted((cache / "blocks").glob("*.safetensors"))


def moment(executor: Executor, name: str = "tiny.yaml") -> Tensor:
    """C of the layer of a spec."""
    with use_executor(executor):
        (found,) = editspec.statistics(name, device="cpu").moments
    assert not found.moment.cached
    return found.moment.matrix


def two_of(processes: LocalProcesses) -> LocalProcesses:
    """An executor of two processes that run already."""
    two = LocalProcesses(2, start=0)
    two._workers = processes._workers
    return two


def session_of(name: str) -> ModelSession:
    return BuildSession.of(load(name), "cpu", no_progress)


def carry(executor: TravellingModels, function: Any) -> Any:
    """The function as the inner executor is given it."""

    class Inner(InProcess):
        def map(self, function: Any, items: Any, device: Any = None, **needs: Any) -> Any:
            return function

    return dataclasses.replace(executor, executor=Inner()).map(function, [])
