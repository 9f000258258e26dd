"""Python has every command, by the same name and with the same arguments, and typed results."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.core import TyperGroup

import editspec
from editspec.cli.main import app
from editspec.commands.registry import COMMANDS, function_name, load_command
from editspec.engine.result import CommandResult
from editspec.modalities.image.opened import Images, OpenedGenerator
from editspec_runtime.errors import PatchError
from tests.commands import said

TYPES = {"EditError", "LoadedSpec", "SpecError", "__version__", "allow_code", "load", "open"}

OF_THE_COMMAND_LINE = {"json", "quiet", "debug", "threads", "workers", "cluster", "allow-code"}
"""Options that say how a command is told, or how its process is set up."""

OF_PYTHON = {"progress", "cache", "executor"}
"""Arguments that no text can say."""


def options() -> dict[str, set[str]]:
    """The options and arguments of every command of the command line, by their long names."""
    found: dict[str, set[str]] = {}

    def visit(group: TyperGroup, prefix: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                visit(command, f"{prefix}{name} ")
                continue
            names = set()
            for parameter in command.params:
                long = [opt for opt in parameter.opts if opt.startswith("--")]
                names.add(long[0].removeprefix("--") if long else str(parameter.name))
            found[prefix + name] = names - {"help"}

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    visit(group, "")
    return found


def test_everything_is_listed() -> None:
    assert set(options()) == set(COMMANDS)
    assert set(editspec.__all__) == TYPES | {function_name(command) for command in COMMANDS}
    assert sorted(editspec.__all__) == sorted(set(editspec.__all__))
    assert set(dir(editspec)) == set(editspec.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = editspec.nothing


@pytest.mark.parametrize("command", COMMANDS)
def test_a_function_takes_what_its_command_takes(command: str) -> None:
    function = load_command(command)
    parameters = set(inspect.signature(function).parameters)
    taken = {name.replace("-", "_") for name in options()[command] - OF_THE_COMMAND_LINE}
    assert parameters - OF_PYTHON == taken
    assert callable(getattr(editspec, function_name(command)))
    assert (inspect.getdoc(function) or "")[0].isupper()


def documented(text: str) -> dict[str, str]:
    """The arguments that a docstring explains, and the words, as names above indented lines."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        if re.fullmatch(r"[a-z_]+(, [a-z_]+)*", line):
            names = line.split(", ")
        elif line.startswith("    "):
            found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
        else:
            names = []
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_are_explained_once(command: str) -> None:
    shared = documented(inspect.getdoc(editspec) or "")
    assert {"spec", "device", "progress"} <= set(shared)
    function = load_command(command)
    own = documented(inspect.getdoc(function) or "")
    parameters = set(inspect.signature(function).parameters)
    within = set(re.findall("`([a-z_]+)`", inspect.getdoc(function) or ""))
    if command != "ci apply":  # which says that the others are those of the review
        assert parameters <= set(own) | set(shared) | within
    assert not [name for name in own if own[name] == shared.get(name)]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"studio"}))
def test_a_function_gives_a_frozen_result(command: str) -> None:
    function = load_command(command)
    returned = get_type_hints(function)["return"]
    for kind in getattr(returned, "__args__", (returned,)):
        assert issubclass(kind, CommandResult)
        if dataclasses.is_dataclass(kind):
            assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        else:  # the base of several
            assert all(dataclasses.is_dataclass(each) for each in kind.__subclasses__())


def test_the_package_alone_imports_neither_the_language_nor_torch() -> None:
    code = (
        "import sys, editspec\n"
        "assert 'torch' not in sys.modules and 'editspec_compiler.schema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def built(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """The patches of a spec of two edits, built from Python."""
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(), "tiny.safetensors")
    Path("spec.yaml").write_text(yaml.safe_dump(two_edits()))
    result = editspec.build("spec.yaml", "out", device="cpu")
    return [edit.path for edit in result.edits if edit.path is not None]


def two_edits() -> dict[str, Any]:
    edits = [
        {
            "name": name,
            "layer": layer,
            "source": {"latent": 1, "mask": {"box": [4, 4, 14, 14]}},
            "target": {"latent": 2, "mask": {"box": [12, 8, 22, 18]}},
            "solver": {"method": "direct", "steps": 5},
        }
        for name, layer in (("one", "layer6"), ("two", "layer5"))
    ]
    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 40},
        "edits": edits,
    }


def test_results_are_what_json_says(built: list[Path]) -> None:
    stack = [str(path) for path in built]
    for function, arguments in (
        (editspec.plan, ("plan", "spec.yaml")),
        (editspec.validate, ("validate", "spec.yaml")),
        (editspec.inspect, ("inspect", stack[0])),
        (editspec.check, ("check", "spec.yaml")),
    ):
        assert function(arguments[1]).to_dict() == said(*arguments)  # type: ignore[operator]
    verified = editspec.verify("tiny.safetensors", stack).to_dict()
    assert verified == said("verify", *stack, "--model", "tiny.safetensors")


def test_no_text_shows_tensors_or_python_values(built: list[Path]) -> None:
    result = editspec.build("spec.yaml", "out", device="cpu")
    assert "tensor(" not in repr(result)  # what a notebook shows of it
    for path in (*built, *Path("out/rules").iterdir()):
        assert "{" not in editspec.inspect(path).to_text()


def test_a_report_is_written_and_named(built: list[Path]) -> None:
    result = editspec.build("spec.yaml", "out", report=True, check=True, device="cpu")
    assert result.report == Path("out/report.html")
    assert result.report.is_file()
    assert result.checked is not None
    assert result.checked.passed


@pytest.mark.parametrize("opened", ["spec.yaml", "tiny.safetensors"])
def test_an_opened_model_draws_what_applied_weights_draw(built: list[Path], opened: str) -> None:
    model = editspec.open(opened, device="cpu")
    assert isinstance(model, OpenedGenerator)
    edited = model.with_patches(*built)
    assert edited.digest == editspec.apply("tiny.safetensors", built, "edited.safetensors").digest
    applied = editspec.open("edited.safetensors", device="cpu")
    assert isinstance(applied, OpenedGenerator)
    assert torch.equal(edited.outputs(range(3)), applied.outputs(range(3)))
    assert not torch.equal(edited.outputs(range(3)), model.outputs(range(3)))
    assert len(repr(edited)) < 200  # what a notebook shows of it, without its tensors
    # Patch by patch, in their order alone.
    first = model.with_patches(built[0])
    assert first.with_patches(built[1]).digest == edited.digest
    with pytest.raises(PatchError):
        model.with_patches(built[1])


def test_pictures_are_shown_by_a_notebook(built: list[Path]) -> None:
    model = editspec.open("spec.yaml", device="cpu").with_patches(*built)
    assert isinstance(model, OpenedGenerator)
    images: Images = model.images([4, 5])
    assert [image.size for image in images] == [(32, 32), (32, 32)]
    assert isinstance(images[0], Image.Image)
    assert images._repr_png_().startswith(b"\x89PNG")
    levels = (model.outputs([4])[0].clamp(-1, 1) + 1) * 127.5
    shown = torch.from_numpy(np.array(images[0])).permute(2, 0, 1)
    assert torch.equal(levels.round().to(torch.uint8), shown)
    assert model.images(torch.zeros(1, 8))[0].tobytes() != images[0].tobytes()
