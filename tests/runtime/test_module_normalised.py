"""Layers whose weight is computed from other parameters: spectral and weight normalisation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import editspec
from editspec_runtime.families.torch_module.source import run_factory
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

CODE = """
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

class Net(nn.Module):
    latent_shape = (5, 1, 1)

    def __init__(self, kind: str):
        super().__init__()
        wrap = {
            "old spectral": spectral_norm,
            "old weight": weight_norm,
            "spectral": parametrizations.spectral_norm,
            "weight": parametrizations.weight_norm,
            "pruned": lambda module: prune.random_unstructured(module, "weight", 0.3),
        }[kind]
        self.begin = nn.ConvTranspose2d(5, 8, 4)
        self.wide = wrap(nn.Linear(8, 8))
        self.up = wrap(nn.ConvTranspose2d(8, 7, 4, 2, 1))
        self.norm = nn.BatchNorm2d(7)
        self.mix = wrap(nn.Conv2d(7, 6, 3, padding=1))
        self.act = nn.LeakyReLU(0.2)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, z):
        x = self.wide(torch.relu(self.begin(z)).movedim(1, -1)).movedim(-1, 1)
        x = torch.relu(self.norm(self.up(x)))
        return torch.tanh(self.last(self.act(self.mix(x))))

class Grouped(nn.Module):
    latent_shape = (4, 4, 4)

    def __init__(self):
        super().__init__()
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.point = nn.Conv2d(4, 3, 1)

    def forward(self, z):
        return self.point(self.depth(z))
"""
STORED = {
    "old spectral": "weight_orig",
    "old weight": "weight_v",
    "spectral": "parametrizations.weight.original",
    "weight": "parametrizations.weight.original1",
    "pruned": "weight_orig",
}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("nets", None)


def network(kind: str) -> torch.nn.Module:
    """A network with random weights, whose spectral norms have been estimated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module, _ = run_factory("nets:Net", Path(), {"kind": kind}, allow_code=True)
        module.train()
        with torch.no_grad():
            for _ in range(20):
                module(torch.randn(8, 5, 1, 1))
        return module.eval()


def spec_of(kind: str, layer: str, solver: object) -> Path:
    save_file(network(kind).state_dict(), "net.safetensors")
    size = {"wide": 4}.get(layer, 8)
    place = {"mask": {"box": [0, 0, size // 2, size]}}
    model = {
        "family": "torch",
        "module": "nets:Net",
        "arguments": {"kind": kind},
        "weights": "net.safetensors",
    }
    edit = {
        "name": "e",
        "layer": layer,
        "source": {"latent": 1, **place},
        "target": {"latent": 2, **place},
        "solver": solver,
    }
    content = {"version": 1, "model": model, "statistics": {"samples": 80}, "edits": [edit]}
    Path("spec.yaml").write_text(yaml.safe_dump(content))
    return Path("spec.yaml")


@pytest.mark.parametrize("layer", ["wide", "up", "mix"])
@pytest.mark.parametrize("kind", STORED)
def test_an_edit_of_a_normalised_weight_is_what_plain_torch_draws(kind: str, layer: str) -> None:
    spec = spec_of(kind, layer, {"method": "direct", "steps": 60})
    built = said("build", spec, "-o", "out", "--allow-code")["edits"][0]
    patch = read_patch(Path(built["patch"]))
    # Where the normalisation takes the weight from, and nothing else.
    assert patch.parameters == [f"{layer}.{STORED[kind]}"]
    assert built["residual"] < 0.97
    run("apply", "--model", "net.safetensors", built["patch"], "-o", "edited.safetensors")
    plain = network(kind)
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = plain(z[:, :, None, None])
        plain.load_state_dict(load_file("edited.safetensors"))
        after = plain(z[:, :, None, None])
    with editspec.allow_code():
        opened = editspec.open(spec)
    torch.testing.assert_close(opened.outputs(z), before)
    torch.testing.assert_close(opened.with_patches(built["patch"]).outputs(z), after)
    assert (after - before).abs().max() > 1e-3
    assert run("verify", "out", "--model", "net.safetensors").exit_code == 0


@pytest.mark.parametrize("kind", ["spectral", "weight"])
def test_a_method_that_needs_the_weight_alone_says_so(kind: str) -> None:
    result = run("build", spec_of(kind, "mix", "least-squares"), "-o", "out", "--allow-code")
    assert result.exit_code == 2
    assert "mix is not known to act on each output channel alone" in result.stderr
    assert "write method: projected-gradient" in result.stderr


def test_a_convolution_in_groups_is_refused_with_the_way_out() -> None:
    module, _ = run_factory("nets:Grouped", Path(), allow_code=True)
    save_file(module.state_dict(), "net.safetensors")
    content = yaml.safe_load(spec_of("weight", "up", "direct").read_text())
    save_file(module.state_dict(), "net.safetensors")
    content["model"]["module"] = "nets:Grouped"
    del content["model"]["arguments"]
    content["edits"][0]["layer"] = "depth"
    Path("spec.yaml").write_text(yaml.safe_dump(content))
    result = run("build", "spec.yaml", "-o", "out", "--allow-code")
    assert result.exit_code == 2
    assert "depth cannot be edited: depth works in groups of channels" in result.stderr
    assert "a 1x1 convolution behind one in groups changes" in result.stderr
