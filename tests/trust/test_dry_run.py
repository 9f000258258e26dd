"""Networks of others are run with shapes alone first: what they would take is found before."""

from __future__ import annotations

import copy
import json
import resource
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from editspec_runtime.errors import FileError
from editspec_runtime.families.torch_module.dry_run import Budget, DryRun, Unbounded, budget_of
from editspec_runtime.families.torch_module.exported import read_exported
from editspec_runtime.io.operators import is_harmless
from tests.commands import run

Change = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A layer, and something behind it."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.layer = nn.ConvTranspose2d(4, 3, 4)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))


def export(change: Change) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Network(change).eval(),
            (torch.zeros(2, 4, 1, 1),),
            dynamic_shapes=({0: torch.export.Dim("n")},),
            strict=False,
        )
        torch.export.save(program, "net.pt2")
    return Path("net.pt2")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def repeat(step: Change, times: int) -> Change:
    def change(x: Tensor) -> Tensor:
        for _ in range(times):
            x = step(x)
        return x[:, :3, :4, :4]

    return change


UNBOUNDED: dict[str, Change] = {
    "cat": repeat(lambda x: torch.cat([x, x], 1), 40),
    "repeat": repeat(lambda x: x.repeat(1, 2, 1, 1), 40),
    "stack": repeat(lambda x: torch.stack([x, x], 2).flatten(1, 2), 40),
    "pad": repeat(lambda x: functional.pad(x, (0, 1000, 0, 1000)), 20),
    "interpolate": repeat(lambda x: functional.interpolate(x, scale_factor=2), 20),
    "outer": repeat(lambda x: (x[..., None] * x[..., None, :]).flatten(3), 4),
    "full": lambda x: x + torch.full((10**6, 10**5), 1.0).sum(),
    "arange": lambda x: x + torch.arange(10**11).sum(),
    "zeros": lambda x: x + torch.zeros(10**11)[0],
    "empty": lambda x: x + x.new_empty(10**11)[0],
    "strides": lambda x: x + torch.empty_strided((2,), (10**11,)).sum() * 0,
    "expand": lambda x: x + x.expand(10**11, *x.shape)[:, 0, 0, 0, 0].sum(),
    "matrices": lambda x: x + repeat(lambda a: a @ a, 60)(torch.ones(1, 1, 4096, 4096))[0, 0, 0, 0],
    "pooling": lambda x: x + functional.max_pool2d(torch.ones(1, 1, 4096, 4096), 2048, 1).sum(),
    "kernel": lambda x: (
        x + functional.conv2d(torch.ones(1, 1, 2048, 2048), torch.ones(1, 1, 1024, 1024)).sum()
    ),
    "division": lambda x: (
        x + torch.div(torch.arange(9) - 2**62, torch.arange(9) - 5, rounding_mode="trunc").sum()
    ),
}
BOUNDED: dict[str, Change] = {
    "cat": repeat(lambda x: torch.cat([x, x], 1), 4),
    "interpolate": lambda x: functional.interpolate(x, scale_factor=8),
    "arange": lambda x: x + torch.arange(4),
    "expand": lambda x: x.expand(5, *x.shape)[0],
    "matrices": lambda x: x @ x.transpose(2, 3),
    "pooling": lambda x: functional.avg_pool2d(x, 2),
    "division": lambda x: x + torch.arange(4) // 2,
    "split": lambda x: torch.cat(x.split(1, 1), 1),
    "shape": lambda x: x.reshape(x.shape[0], -1)[:, :16].reshape(x.shape[0], 1, 4, 4),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_network_that_grows_is_refused_before_it_runs(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = export(UNBOUNDED[name])
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(FileError, match="cannot be run"):
        read_exported(path)
    assert time.monotonic() - begun < 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


@pytest.mark.parametrize("name", BOUNDED)
def test_a_network_that_is_bounded_is_run(name: str) -> None:
    path = export(BOUNDED[name])
    module, _ = read_exported(path)
    latents = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    found = module(latents)
    own = Network(BOUNDED[name])
    own.load_state_dict(module.state_dict())
    assert torch.equal(found, own(latents))


def test_a_network_that_grows_with_its_batch_is_refused_for_a_large_one() -> None:
    def change(x: Tensor) -> Tensor:
        many = x.shape[0] * x.shape[0] * x.shape[0] * x.shape[0]
        return x + torch.zeros(many * many).sum()

    module, _ = read_exported(export(change))
    assert module(torch.zeros(2, 4, 1, 1)).shape == (2, 3, 4, 4)
    with pytest.raises(FileError, match="cannot be run"):
        module(torch.zeros(64, 4, 1, 1))


def test_shapes_that_follow_from_numbers_are_refused() -> None:
    def change(x: Tensor) -> Tensor:
        return x + x[x > 0].sum()

    with pytest.raises(FileError, match=r"do not follow|It was not executed"):
        read_exported(export(change))


def test_an_axis_that_falls_into_very_many_parts_is_refused() -> None:
    path = export(lambda x: x + torch.stack(torch.ones(7).unbind()).sum())
    assert read_exported(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b'"as_ints": [7]', b'"as_ints": [99999999]'))
    with pytest.raises(FileError, match="takes an axis"):
        read_exported(path)


def test_numbers_that_are_squared_again_and_again_are_refused() -> None:
    path = export(lambda x: x + x.shape[0] * 3)
    assert read_exported(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    graph = next(name for name in entries if name.endswith("model.json"))
    content = json.loads(entries[graph])
    nodes = content["graph_module"]["graph"]["nodes"]
    place = next(i for i, node in enumerate(nodes) if node["target"] == "_operator.mul")
    values = content["graph_module"]["graph"]["sym_int_values"]
    name = nodes[place]["name"] = nodes[place]["outputs"][0]["as_sym_int"]["as_name"]
    nodes[place]["inputs"][1]["arg"] = {"as_int": 3}
    for number in range(60):
        node = copy.deepcopy(nodes[place])
        for given in node["inputs"]:
            given["arg"] = {"as_sym_int": {"as_name": name}}
        name = node["name"] = f"square_{number}"
        node["outputs"] = [{"as_sym_int": {"as_name": name}}]
        values[name] = {"as_int": 1}
        nodes.insert(place + 1 + number, node)
    # What nothing uses is not computed.
    (user,) = (node for node in nodes if node["target"] == "torch.ops.aten.add.Tensor")
    user["inputs"][1]["arg"] = {"as_sym_int": {"as_name": name}}
    entries[graph] = json.dumps(content).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    with pytest.raises(FileError, match="grows without bound"):
        read_exported(path)


def test_commands_refuse_it_in_words() -> None:
    path = export(UNBOUNDED["cat"])
    result = run("inspect", str(path))
    assert (result.exit_code, "many more numbers" in result.stderr) == (1, True), result.stderr


@pytest.mark.parametrize(
    "target",
    [
        "special_laguerre_polynomial_l.n_scalar",
        "special_hermite_polynomial_h.default",
        "mvlgamma.default",
        "item.default",
        "_local_scalar_dense.default",
        "addbmm.default",
        "cat.out",
        "add.out",
        "remainder.int",
        "_scaled_dot_product_flash_attention_for_cpu.default",
        "add",
    ],
)
def test_operators_that_count_up_or_resize_are_refused(target: str) -> None:
    assert not is_harmless(f"torch.ops.aten.{target}")


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x


def is_within(budget: Budget) -> bool:
    program = torch.export.export(Squared(), (torch.zeros(8, 8),))
    try:
        DryRun(program, budget, "net.pt2").require_bounded((8, 8), torch.float32)
    except Unbounded:
        return False
    return True


def test_what_a_run_takes_is_counted_exactly() -> None:
    # For all 8 items: 64 numbers are made, 1,024 operations multiply, 192 numbers are touched.
    assert is_within(Budget(8, (1024 + 16 * 192) // 8))
    assert not is_within(Budget(7, 512))
    assert not is_within(Budget(8, 511))


def test_the_budget_grows_with_the_file() -> None:
    assert budget_of(10**8).numbers > 10 * budget_of(10**6).numbers
    assert budget_of(10**8).work > 5 * budget_of(10**6).work
