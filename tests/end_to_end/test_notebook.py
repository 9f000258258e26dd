"""The example notebook runs, shows pictures, and its module is the edited model."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import editspec
from editspec.engine.torch_module import ModelModule
from tests.docs_text import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def cells() -> list[str]:
    """The code of the notebook, cell by cell."""
    content = json.loads(NOTEBOOK.read_text())
    assert (content["nbformat"], content["metadata"]["kernelspec"]["language"]) == (4, "python")
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert not [cell for cell in code if cell["outputs"]]
    return ["".join(cell["source"]) for cell in code]


def execute(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does; return the value of its last line, where it has one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def size_of(shown: Any) -> tuple[int, int]:
    """The size of the picture that a notebook shows for a value."""
    with Image.open(io.BytesIO(shown._repr_png_())) as image:
        return image.size


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """The names of the notebook after a run, and what its cells show."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        patch.setenv("EDITSPEC_CACHE", "cache")
        shown = [execute(source, names) for source in cells()]
        names["folder"] = Path.cwd()
        names["drawn"] = [size_of(value) for value in shown if hasattr(value, "_repr_png_")]
    return names, shown


def test_it_shows_pictures(run: tuple[dict[str, Any], list[Any]]) -> None:
    names, _ = run
    assert len(names["drawn"]) == 3  # the gallery, the build, the comparison
    assert all(width > 200 and height > 100 for width, height in names["drawn"])
    assert names["result"].checked.passed


def test_its_module_is_the_edited_model(run: tuple[dict[str, Any], list[Any]]) -> None:
    names, _ = run
    module, edited = names["module"], names["edited"]
    assert isinstance(module, torch.nn.Module)
    latents = names["latents"]
    with torch.no_grad():
        images = torch.cat([module(each) for each in latents.split(1)])
    assert torch.equal(images, edited.outputs(latents))
    base = editspec.open("builtin:skyline", device="cpu")
    assert not torch.equal(images, base.outputs(latents))  # type: ignore[attr-defined]
    assert set(module.state_dict()) == set(edited.generator.weights)
    applied = editspec.open(str(names["folder"] / "edited.safetensors"), device="cpu")
    assert torch.equal(images, applied.outputs(latents))  # type: ignore[attr-defined]


def test_training_a_module_changes_it_alone(run: tuple[dict[str, Any], list[Any]]) -> None:
    names, _ = run
    edited, latents = names["edited"], names["latents"][:1]
    before = edited.outputs(latents)
    module = ModelModule(edited.model)
    module(latents).square().mean().backward()
    parameters = dict(module.named_parameters())
    assert "convs.4.conv.weight" in parameters
    assert all(parameter.grad is not None for parameter in parameters.values())
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    with torch.no_grad():
        assert not torch.equal(module(latents), before)
    assert torch.equal(edited.outputs(latents), before)
    copy = ModelModule(edited.model)
    copy.load_state_dict(module.state_dict())
    with torch.no_grad():
        assert torch.equal(copy(latents), module(latents))
