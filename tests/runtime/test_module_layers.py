"""The layers that a network of modules is found to have: from the key to behind the rectifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editspec_runtime.families.torch_module.exported import read_exported
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.source import Source


class Net(nn.Module):
    """A convolution `a`, a convolution `b`, and what a test has between them."""

    latent_shape = (4, 6, 6)

    def __init__(self, between: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        # Defined in another order than they are called in.
        self.b = nn.Conv2d(5, 3, 3, padding=1)
        for name, module in modules.items():
            setattr(self, name, module)
        self.a = nn.Conv2d(4, 5, 3, padding=1)
        self.between = between

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.b(self.between(self, z)))


def ignored_result(net: Any, z: Tensor) -> Tensor:
    x = net.a(z)
    net.act(x)
    return x


def skip_from_convolution(net: Any, z: Tensor) -> Tensor:
    x = net.a(z)
    return net.act(net.norm(x)) + x


def skip_from_normalisation(net: Any, z: Tensor) -> Tensor:
    x = net.norm(net.a(z))
    return net.act(x) * torch.sigmoid(x)


def copied_before_the_change(net: Any, z: Tensor) -> Tensor:
    x = net.a(z)
    kept = x.clone()
    return net.act(x) + kept


def called_twice(net: Any, z: Tensor) -> Tensor:
    return net.act(net.a(net.act(z)))


def silent_function(net: Any, z: Tensor) -> Tensor:
    x = net.a(z)
    F.relu_(x)
    return x


relu, leaky = nn.ReLU(), nn.LeakyReLU(0.1)
norm = nn.BatchNorm2d(5)
NETS: dict[str, tuple[Net, list[str]]] = {
    "modules": (
        Net(lambda net, z: net.act(net.norm(net.a(z))), norm=norm, act=nn.ReLU(True)),
        ["a", "norm", "act"],
    ),
    "dropout": (
        Net(
            lambda net, z: net.drop(net.act(net.drop(net.norm(net.a(z))))),
            norm=norm,
            drop=nn.Dropout2d(),
            act=relu,
        ),
        ["a", "norm", "drop", "act"],
    ),
    "no normalisation": (Net(lambda net, z: net.act(net.a(z)), act=leaky), ["a", "act"]),
    "no rectifier": (
        Net(lambda net, z: torch.tanh(net.norm(net.a(z))), norm=norm),
        ["a", "norm"],
    ),
    "rectifier first": (
        Net(lambda net, z: net.norm(net.act(net.a(z))), norm=norm, act=relu),
        ["a", "act"],
    ),
    "other normalisations": (
        Net(lambda net, z: net.act(net.norm(net.a(z))), norm=nn.GroupNorm(5, 5), act=nn.SiLU()),
        ["a", "norm", "act"],
    ),
    "learned slope": (
        Net(
            lambda net, z: net.act(net.norm(net.a(z))),
            norm=nn.InstanceNorm2d(5, affine=True),
            act=nn.PReLU(5),
        ),
        ["a", "norm", "act"],
    ),
    "function": (
        Net(lambda net, z: F.leaky_relu(net.norm(net.a(z)), 0.3), norm=norm),
        ["a", "norm", "LeakyReLU()"],
    ),
    "method": (Net(lambda net, z: net.a(z).relu()), ["a", "ReLU()"]),
    "clamp": (Net(lambda net, z: net.a(z).clamp(min=0)), ["a", "ReLU()"]),
    "function in place": (Net(silent_function), ["a", "ReLU()"]),
    "in place, result ignored": (Net(ignored_result, act=nn.ReLU(True)), ["a", "act"]),
    "a module called twice": (Net(called_twice, act=nn.ELU()), ["a", "act"]),
    "a squash is no rectifier": (Net(lambda net, z: torch.tanh(net.a(z))), ["a"]),
    "a clamp of another kind": (Net(lambda net, z: net.a(z).clamp(min=0, max=1)), ["a"]),
    "something between": (
        Net(lambda net, z: net.act(2 * net.norm(net.a(z))), norm=norm, act=relu),
        ["a", "norm"],
    ),
    "a copy of the convolution": (
        Net(skip_from_convolution, norm=norm, act=relu),
        ["a"],
    ),
    "a copy of the normalisation": (
        Net(skip_from_normalisation, norm=norm, act=relu),
        ["a", "norm"],
    ),
    "a copy before a change in place": (
        Net(copied_before_the_change, act=nn.ReLU(True)),
        ["a"],
    ),
    "statistics of a batch": (
        Net(
            lambda net, z: net.act(net.norm(net.a(z))),
            norm=nn.BatchNorm2d(5, track_running_stats=False),
            act=relu,
        ),
        ["a"],
    ),
}


def model_of(net: nn.Module) -> TorchModule:
    random = torch.Generator().manual_seed(5)
    weights = {}
    for name, tensor in net.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=random) * 0.4
        positive = name.endswith("running_var")
        weights[name] = (drawn.abs() + 0.5 if positive else drawn).to(tensor.dtype)
    return TorchModule(weights, Source(net.eval(), "code"))


@pytest.mark.parametrize("name", NETS)
def test_what_belongs_to_a_layer_follows_from_the_flow_of_data(name: str) -> None:
    net, steps = NETS[name]
    model = model_of(net)
    assert list(model.architecture.layers["a"].steps) == steps
    alone = "a/weight" in model.architecture.layers
    assert alone == (len(steps) > 1)
    if not alone:
        assert "write a" in model.refused["a/weight"].hint


@pytest.mark.parametrize("layer", ["a", "a/weight"])
@pytest.mark.parametrize("name", NETS)
def test_a_layer_carries_all_that_its_weight_does(name: str, layer: str) -> None:
    model = model_of(NETS[name][0])
    if layer not in model.architecture.layers:
        layer = "a"
    z = torch.randn(2, 4 * 36, generator=torch.Generator().manual_seed(1))
    other = 0.5 * model.weight(layer) + 0.1
    trace = model.trace(layer, z)
    value = model.function(layer)(trace.key, other, trace.arguments)
    changed = model.with_weights({**model.weights, "a.weight": other[0]})
    found, wanted = model.forward_from(layer, value, trace), changed.images(z)
    torch.testing.assert_close(found, wanted)
    assert (wanted - model.images(z)).abs().max() > 1e-2
    # In a generator that went on with the old value there would be no difference.
    own = model.layer_value(layer, trace).requires_grad_()
    model.forward_from(layer, own, trace).sum().backward()
    assert own.grad is not None
    assert own.grad.abs().max() > 0


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize(
    "name", ["modules", "function", "no rectifier", "other normalisations", "learned slope"]
)
def test_an_exported_network_has_the_same_layers(name: str, tmp_path: Any) -> None:
    own = model_of(NETS[name][0])
    net = own.source.module
    net.load_state_dict(dict(own.weights))
    shapes = ({0: torch.export.Dim("n")},)
    program = torch.export.export(net, (torch.zeros(2, 4, 6, 6),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    module, _ = read_exported(tmp_path / "net.pt2")
    found = TorchModule(dict(module.state_dict()), Source(module, "graph"))
    assert dict(found.architecture.layers) == dict(own.architecture.layers)
    z = torch.randn(2, 4 * 36, generator=torch.Generator().manual_seed(1))
    for layer in own.architecture.layers:
        trace = own.trace(layer, z)
        value = found.function(layer)(trace.key, found.weight(layer), trace.arguments)
        torch.testing.assert_close(value, own.layer_value(layer, trace))
