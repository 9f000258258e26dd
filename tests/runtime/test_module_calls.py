"""What a spec gives to the code of a network: arguments of its class, inputs besides latents."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import editspec
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.torch_module.source import run_factory
from tests.commands import run, said

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, size: int, width: int, *, slope: float = 0.2, names: list = ()):
        super().__init__()
        self.names = names
        self.a = nn.ConvTranspose2d(size, width, 4)
        self.act = nn.LeakyReLU(slope)
        self.b = nn.ConvTranspose2d(width, 3, 4, 2, 1)

    def forward(self, z):
        return torch.tanh(self.b(self.act(self.a(z))))

class Labelled(Net):
    def forward(self, noise, labels):
        return super().forward(torch.cat([noise.flatten(1), labels], 1)[:, :, None, None])

class Numbered(Net):
    def forward(self, noise, label, scale=1.0):
        spread = nn.functional.one_hot(label, 2).to(noise)
        return scale[:, None, None, None] * super().forward(
            torch.cat([noise.flatten(1), spread], 1)[:, :, None, None])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(CODE)
    network, _ = run_factory("nets:Net", Path(), {"size": 6, "width": 5}, allow_code=True)
    random = torch.Generator().manual_seed(0)
    weights = network.state_dict()
    save_file(
        {name: torch.randn(each.shape, generator=random) for name, each in weights.items()},
        "net.safetensors",
    )
    yield tmp_path
    sys.modules.pop("nets", None)


def spec_of(module: str = "Net", **model: Any) -> Path:
    place = {"mask": {"box": [0, 0, 4, 4]}}
    edit = {
        "name": "e",
        "layer": "b",
        "source": {"latent": 1, **place},
        "target": {"latent": 2, **place},
        "solver": {"method": "direct", "steps": 5},
    }
    fields = {
        "family": "torch",
        "module": f"nets:{module}",
        "weights": "net.safetensors",
        "latent_shape": [6 if module == "Net" else 4, 1, 1],
        "arguments": {"size": 6, "width": 5},
        **model,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    content = {"version": 1, "model": fields, "statistics": {"samples": 40}, "edits": [edit]}
    Path("spec.yaml").write_text(yaml.safe_dump(content))
    return Path("spec.yaml")


def pictures(path: Path) -> torch.Tensor:
    with editspec.allow_code():
        return editspec.open(path).outputs(range(2))


def test_arguments_reach_the_class() -> None:
    plain = pictures(spec_of())
    other = pictures(spec_of(arguments={"size": 6, "width": 5, "slope": 0.9, "names": ["x", None]}))
    assert (plain - other).abs().max() > 1e-2
    network, _ = run_factory("nets:Net", Path(), {"size": 6, "width": 5}, allow_code=True)
    assert network.act.negative_slope == 0.2


def test_arguments_count_in_digests() -> None:
    assert run("build", spec_of(), "-o", "out", "--allow-code").exit_code == 0
    assert run("lock", "spec.yaml", "--check", "--allow-code").exit_code == 0
    spec_of(arguments={"size": 6, "width": 5, "slope": 0.9})
    assert run("lock", "spec.yaml", "--check", "--allow-code").exit_code == 1
    first = run_factory("nets:Net", Path(), {"size": 6, "width": 5}, allow_code=True)[1]
    second = run_factory("nets:Net", Path(), {"size": 6, "width": 4}, allow_code=True)[1]
    assert first != second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "model.arguments: nets:Net needs size, width"),
        (None, "nets:Net needs size, width"),
        ({"size": 6}, "nets:Net needs width"),
        ({"size": 6, "width": 5, "wdth": 3}, "nets:Net takes no wdth"),
        ({"sise": 6, "width": 5}, "nets:Net needs size and takes no sise"),
    ],
)
def test_other_arguments_are_named_with_the_signature(arguments: Any, message: str) -> None:
    result = run("build", spec_of(arguments=arguments), "-o", "out", "--allow-code")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert "it takes Net(size, width, slope=0.2, names=…)" in result.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"arguments": {"si ze": 6}}, "model.arguments.si ze: si ze is not a name"),
        ({"arguments": {"size": float("nan")}}, "model.arguments.size: size holds a number"),
        ({"arguments": {"size": [{"x": float("inf")}]}}, "model.arguments.size: size holds"),
        ({"arguments": [1, 2]}, "model.arguments"),
        ({"inputs": {"labels": "blue"}}, "model.inputs.labels: labels is not a number"),
        ({"inputs": {"labels": [[1, 2], [3]]}}, "model.inputs.labels: labels is not a number"),
        ({"inputs": {"labels": []}}, "model.inputs.labels: labels is not a number"),
    ],
)
def test_values_that_are_none_are_refused_without_running_code(
    model: dict[str, Any], message: str
) -> None:
    result = run("validate", spec_of(**model))
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_a_file_of_torch_export_takes_neither() -> None:
    Path("net.pt2").touch()
    spec_of(module="Net", weights="net.pt2")
    text = Path("spec.yaml").read_text().replace("  module: nets:Net\n", "")
    Path("spec.yaml").write_text(text)
    result = run("validate", "spec.yaml")
    assert "model.arguments: a file of torch.export takes no arguments" in result.stderr


@pytest.mark.parametrize(
    ("module", "inputs"),
    [("Labelled", {"labels": [0.0, 1.0]}), ("Numbered", {"label": 1, "scale": 1.0})],
)
def test_inputs_reach_the_network_with_every_image(module: str, inputs: dict[str, Any]) -> None:
    model = pictures(spec_of(module, inputs=inputs))
    other = {"labels": [1.0, 0.0]} if module == "Labelled" else {"label": 0, "scale": 1.0}
    assert (pictures(spec_of(module, inputs=other)) - model).abs().max() > 1e-2
    # One image at a time and several at once are the same: every image gets the label.
    with editspec.allow_code():
        opened = editspec.open(spec_of(module, inputs=inputs))
    alone = torch.cat([opened.outputs([number]) for number in range(2)])
    torch.testing.assert_close(alone, model, rtol=1e-4, atol=1e-5)
    built = said("build", spec_of(module, inputs=inputs), "-o", "out", "--allow-code")
    assert built["edits"][0]["status"] == "new"
    again = said("build", spec_of(module, inputs=other), "-o", "out", "--allow-code")
    assert again["edits"][0]["status"] == "changed"


def test_a_network_of_more_inputs_says_what_it_needs() -> None:
    result = run("build", spec_of("Labelled"), "-o", "out", "--allow-code")
    assert result.exit_code == 2
    assert "model.inputs: Labelled draws an image of more than a latent" in result.stderr
    assert "labels is missing" in result.stderr
    assert "it takes noise, labels; write model.inputs: {labels: …}" in result.stderr
    result = run("build", spec_of("Net", inputs={"colour": 1}), "-o", "out", "--allow-code")
    assert "model.inputs: Net takes no colour" in result.stderr
    with pytest.raises(WeightsError, match="cannot take a latent"):
        pictures(spec_of("Labelled", inputs={"labels": [1.0]}))
