"""Patches in the forms of other tools, loaded by those tools: the LoRA of the real peft, and plain
state dicts.
"""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from editspec.engine.adapters import lora_factors
from editspec_runtime.patches.patch import apply_stack, make_patch, read_patch
from tests.commands import run, said

GOLDEN = Path(__file__).parents[1] / "golden"
CODE = '''
from torch import nn

class Net(nn.Module):
    """Two convolutions, a row and a vector; one name is the last part of another."""

    latent_shape = (4, 6, 6)

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"first": nn.Conv2d(4, 5, 1)})
        self.bend = nn.LeakyReLU(0.2)
        self.first = nn.Conv2d(5, 7, 3, padding=1)
        self.last = nn.Conv2d(7, 3, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(3, 3, 2, stride=2)

    def forward(self, latents):
        return self.up(self.last(self.bend(self.first(self.bend(self.inner["first"](latents))))))

class Row(nn.Module):
    latent_size = 6

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(6, 8)
        self.row = nn.Conv1d(2, 3, 3, padding=1)
        self.bend = nn.LeakyReLU(0.2)
        self.end = nn.Linear(12, 5)

    def forward(self, latents):
        return self.end(self.bend(self.row(self.start(latents).reshape(-1, 2, 4))).flatten(1))
'''


def edit(number: int, layer: str, size: int, **more: Any) -> dict[str, Any]:
    half = {"box": [0, 0, size, size]}
    return {
        "name": f"edit-{number}",
        "layer": layer,
        "source": {"latent": 10 + number, "mask": half},
        "target": {"latent": number, "mask": half},
        "solver": {"method": "direct", "steps": 5, "learning_rate": 0.05},
    } | more


def build(model: dict[str, Any], *edits: dict[str, Any]) -> list[Path]:
    spec = {"version": 1, "model": model, "statistics": {"samples": 64}, "edits": list(edits)}
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    said(
        "build", "spec.yaml", "-o", "out", *(["--allow-code"] if model["family"] == "torch" else [])
    )
    return sorted(Path("out/patches").iterdir())


def network(name: str) -> nn.Module:
    """A network of ours with weights that are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module: nn.Module = runpy.run_path("net.py")[name]()
    return module.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)
    for name in ("Net", "Row"):
        save_file(network(name).state_dict(), f"{name}.safetensors")
    return tmp_path


def edited(module: nn.Module, patches: list[Path]) -> nn.Module:
    weights = apply_stack(module.state_dict(), [read_patch(path) for path in patches])
    module.load_state_dict(weights)
    return module


LAYER = {"method": "layer", "steps": 5, "learning_rate": 0.01}
STACKS: dict[str, tuple[str, list[dict[str, Any]], dict[str, int]]] = {
    "convolution": ("Net", [edit(1, "first", 6, rank=2)], {"first": 18}),
    # Two edits of one layer, at ranks that differ from those of other layers, and one without a
    # limit.
    "stack": (
        "Net",
        [
            edit(1, "first", 6),
            edit(2, "inner.first", 6, rank=2),
            edit(3, "first", 6, rank=2),
            edit(4, "last", 6, solver=LAYER),
            edit(5, "inner.first", 6, rank=1),
        ],
        {"first": 27, "inner.first": 3, "last": 3},
    ),
    "rows": ("Row", [edit(1, "row", 5, rank=1), edit(2, "end", 5, rank=1)], {"row": 3, "end": 1}),
}


@pytest.mark.parametrize("stack", STACKS)
def test_peft_loads_what_is_exported(stack: str) -> None:
    from peft import PeftModel

    name, edits, ranks = STACKS[stack]
    model = {"family": "torch", "module": f"net:{name}", "weights": f"{name}.safetensors"}
    patches = build(model, *edits)
    found = said("export", *patches, "--format", "peft", "-o", "adapter")
    assert (
        {module: entry["rank"] for module, entry in found["modules"].items()},
        found["notes"],
    ) == (ranks, [])
    before, after = network(name).double(), edited(network(name), patches).double()
    adapted = PeftModel.from_pretrained(
        network(name).double(), "adapter", autocast_adapter_dtype=False
    ).double()
    latents = torch.randn(
        3,
        *before.latent_shape if name == "Net" else (6,),
        generator=torch.Generator().manual_seed(5),
    )
    latents = latents.double()
    with torch.no_grad():
        # The weights of an edited checkpoint are rounded to float32; peft's sums are not.
        torch.testing.assert_close(adapted(latents), after(latents), rtol=1e-5, atol=1e-6)
        assert (before(latents) - after(latents)).abs().max() > 1e-3
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(latents), after(latents), rtol=1e-5, atol=1e-6)
    # Nothing else was adapted: the other module of a like name is as it was.
    touched = {
        name
        for name, tensor in merged.state_dict().items()
        if not tensor.equal(before.state_dict()[name])
    }
    assert touched == {f"{module}.weight" for module in ranks}
    if len(patches) > 1:  # a patch less gives other images: the comparison above can fail
        said("export", *patches[:-1], "--format", "peft", "-o", "adapter")
        other = PeftModel.from_pretrained(network(name).double(), "adapter").double()
        assert (other(latents) - after(latents)).abs().max() > 1e-3


def test_an_adapter_has_the_same_bytes_each_time_and_replaces_only_its_own(program: Path) -> None:
    (patch,) = build(
        {"family": "torch", "module": "net:Net", "weights": "Net.safetensors"}, edit(1, "first", 6)
    )
    said("export", patch, "--format", "peft", "-o", "one")
    command = [program, "export", str(patch), "--format", "peft", "-o", "two"]
    subprocess.run(command, check=True, capture_output=True)
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in Path("one").iterdir()) == names
    assert all(
        (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes() for name in names
    )
    assert run("export", patch, "--format", "peft", "-o", "one").exit_code == 0
    Path("one/mine.txt").write_text("mine")
    assert "in the way" in run("export", patch, "--format", "peft", "-o", "one").stderr
    save_file({"x": torch.zeros(1)}, "two/adapter_model.safetensors")
    assert run("export", patch, "--format", "peft", "-o", "two").exit_code == 1
    shutil.rmtree("two")
    Path("two").write_text("mine")
    assert run("export", patch, "--format", "peft", "-o", "two").exit_code == 1
    assert Path("two").read_text() == "mine"


def test_convolutions_of_the_progressive_gan_are_those_of_its_module() -> None:
    from peft import (
        LoraConfig,
        get_peft_model_state_dict,
        inject_adapter_in_model,
        set_peft_model_state_dict,
    )

    weights = {"family": "proggan", "weights": str(GOLDEN / "pg_state_dict.safetensors")}
    patches = build(weights, edit(1, "layer4", 24, rank=2), edit(2, "layer1", 24))
    found = said("export", *patches, "--format", "peft", "-o", "adapter")
    ranks = {module: entry["rank"] for module, entry in found["modules"].items()}
    assert ranks == {"layer1.conv": 16, "layer4.conv": 18}
    base = load_file(GOLDEN / "pg_state_dict.safetensors")
    module = nn.Module()
    for name in ("layer1", "layer3", "layer4"):
        shape = base[f"{name}.conv.weight"].shape
        block = nn.Module()
        block.conv = nn.Conv2d(shape[1], shape[0], shape[2], bias=False)
        block.conv.weight.data = base[f"{name}.conv.weight"].clone()
        module.add_module(name, block)
    configuration = json.loads(Path("adapter/adapter_config.json").read_text())
    inject_adapter_in_model(LoraConfig(**configuration), module)
    tensors = {
        n.removeprefix("base_model.model."): t
        for n, t in load_file("adapter/adapter_model.safetensors").items()
    }
    set_peft_model_state_dict(module, tensors)
    assert len(get_peft_model_state_dict(module)) == len(tensors) == 4
    after = apply_stack(base, [read_patch(path) for path in patches])
    for name in ("layer1", "layer4"):
        conv = getattr(module, name).conv
        conv.merge()
        torch.testing.assert_close(conv.weight, after[f"{name}.conv.weight"], rtol=1e-5, atol=1e-6)
        assert not base[f"{name}.conv.weight"].allclose(after[f"{name}.conv.weight"], atol=1e-5)


@pytest.fixture
def stylegan2(make_tiny: Callable[..., dict[str, Tensor]]) -> list[Path]:
    save_file(
        {f"g_ema.{name}": tensor for name, tensor in make_tiny(size=16).items()}, "tiny.safetensors"
    )
    model = {"family": "stylegan2", "weights": "tiny.safetensors"}
    edits = edit(1, "layer6", 8, rank=2), edit(2, "layer5", 8, solver=LAYER), edit(3, "layer6", 8)
    return build(model, *edits)


def test_an_adapter_of_stylegan2_merges_into_plain_convolutions(
    stylegan2: list[Path], make_tiny: Callable[..., dict[str, Tensor]]
) -> None:
    from peft import PeftModel

    found = said("export", *stylegan2, "--format", "peft", "-o", "adapter")
    assert "nn.Conv2d" in found["notes"][0]
    # As docs/supply-chain.md tells it: modules of these names, with the five axes of the weight
    # made four.
    base = make_tiny(size=16)
    stand_in = nn.Module()
    for name in found["modules"]:
        _, out, channels, height, width = base[f"{name}.weight"].shape
        *path, last = name.split(".")
        owner = stand_in
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.add_module(last, nn.Conv2d(channels, out, (height, width), bias=False))
        getattr(owner, last).weight.data = base[f"{name}.weight"][0].clone()
    merged = PeftModel.from_pretrained(stand_in, "adapter").merge_and_unload()
    after = apply_stack(base, [read_patch(path) for path in stylegan2])
    for name in found["modules"]:
        torch.testing.assert_close(merged.get_submodule(name).weight[None], after[f"{name}.weight"])
        assert not base[f"{name}.weight"].allclose(after[f"{name}.weight"], atol=1e-4)


def test_the_factors_of_a_lora_are_the_change_itself() -> None:
    draw = torch.Generator().manual_seed(1)
    directions = torch.linalg.qr(torch.randn(6, 2, generator=draw))[0].T.contiguous()
    coefficients = torch.randn(5, 2, 3, 3, generator=draw)
    channelwise = make_patch(
        {"c.weight": directions}, {"c.weight": coefficients}, {"c.weight": "1 o i y x"}, {}
    )
    full = make_patch(
        {}, {}, {"c.weight": "1 o i y x"}, {}, {"c.weight": channelwise.delta("c.weight")[None]}
    )
    for patch, rank in ((channelwise, 18), (full, 5)):
        a, b = lora_factors(patch, "c.weight")
        assert (a.shape, b.shape) == ((rank, 6, 3, 3), (5, rank, 1, 1))
        product = torch.einsum("or,riyx->oiyx", b[..., 0, 0].double(), a.double())
        torch.testing.assert_close(product, channelwise.delta("c.weight"), rtol=1e-12, atol=1e-12)
    a, _ = lora_factors(channelwise, "c.weight")
    assert [(a[r] != 0).sum() for r in range(18)] == [6] * 18  # each holds one row of D at one tap


def test_deltas_and_full_parameters_give_the_weights_that_the_stack_gives(
    stylegan2: list[Path], make_tiny: Callable[..., dict[str, Tensor]]
) -> None:
    base = make_tiny(size=16)
    after = apply_stack(base, [read_patch(path) for path in stylegan2])
    found = said(
        "export",
        *stylegan2,
        "--format",
        "full",
        "--model",
        "tiny.safetensors",
        "-o",
        "full.safetensors",
    )
    full = load_file("full.safetensors")
    assert (
        set(full)
        == set(found["tensors"])
        == {name for name in base if not base[name].equal(after[name])}
    )
    assert all(tensor.equal(after[name]) for name, tensor in full.items())
    said("export", *stylegan2, "--format", "delta", "-o", "delta.safetensors")
    deltas = load_file("delta.safetensors")
    assert set(deltas) == set(full)
    for name, delta in deltas.items():
        assert (delta.shape, delta.dtype) == (base[name].shape, torch.float32)
        torch.testing.assert_close(base[name] + delta, after[name], rtol=1e-6, atol=1e-6)
    # Patches from the middle of a stack have a difference, too, and no weights of their own.
    said("export", *stylegan2[1:], "--format", "delta", "-o", "delta.safetensors")
    assert not load_file("delta.safetensors")["convs.3.conv.weight"].allclose(
        deltas["convs.3.conv.weight"]
    )
    wrong = run(
        "export",
        *stylegan2[1:],
        "--format",
        "full",
        "--model",
        "tiny.safetensors",
        "-o",
        "full.safetensors",
    )
    assert (wrong.exit_code, "solved on weights" in wrong.stderr) == (1, True)
    gap = run("export", stylegan2[0], stylegan2[2], "--format", "delta", "-o", "delta.safetensors")
    assert (gap.exit_code, "follow one another" in gap.stderr) == (1, True)


def test_a_sum_of_deltas_of_transposed_convolutions_keeps_their_axes() -> None:
    model = {"family": "torch", "module": "net:Net", "weights": "Net.safetensors"}
    patches = build(model, edit(1, "up", 6, rank=2), edit(2, "up", 6, solver=LAYER))
    said("export", *patches, "--format", "delta", "-o", "delta.safetensors")
    before, after = network("Net").up.weight, edited(network("Net"), patches).up.weight
    torch.testing.assert_close(
        before + load_file("delta.safetensors")["up.weight"], after, rtol=1e-6, atol=1e-6
    )
    refused = run("export", *patches, "--format", "peft", "-o", "adapter")
    assert (
        refused.exit_code,
        "up.weight, which is a transposed convolution" in refused.stderr,
    ) == (1, True)
    assert not Path("adapter").exists()


def test_what_is_no_weight_of_a_layer_has_no_adapter(
    make_tiny: Callable[..., dict[str, Tensor]],
) -> None:
    save_file(make_tiny(size=16), "tiny.safetensors")
    every = {"method": "all-weights", "steps": 2, "learning_rate": 0.001}
    (patch,) = build(
        {"family": "stylegan2", "weights": "tiny.safetensors"}, edit(1, "layer6", 8, solver=every)
    )
    refused = run("export", patch, "--format", "peft", "-o", "adapter")
    assert (refused.exit_code, "peft has no LoRA for that" in refused.stderr) == (1, True)
    said("export", patch, "--format", "delta", "-o", "delta.safetensors")
    assert len(load_file("delta.safetensors")) > 40


def test_wrong_use_is_named(stylegan2: list[Path]) -> None:
    patch = stylegan2[0]
    for arguments, expected in (
        (["spec.yaml", patch, "--format", "record"], "one SPEC"),
        ([patch, "--format", "full"], "--model"),
        ([patch, "--format", "peft", "--model", "tiny.safetensors"], "--model"),
        ([patch, "--format", "onnx"], "known here: record, peft, diffusers"),
    ):
        result = run("export", *arguments, "-o", "x")
        assert (result.exit_code, expected in result.stderr) == (2, True), result.stderr
    for form in (["delta"], ["full", "--model", "tiny.safetensors"]):
        assert "in the way" in run("export", patch, "--format", *form, "-o", "spec.yaml").stderr
    assert run("export", "spec.yaml", "--format", "peft", "-o", "x").exit_code == 1
    assert not Path("x").exists()
