"""Torch's own modules in the place of those that a graph of ``torch.export`` makes of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from editspec_runtime.families.torch_module.activations import (
    BatchNorm,
    InstanceNorm,
    find_rectifier,
)


def restore_modules(module: nn.Module) -> None:
    """Replace modules that a graph made of torch's own layers by these."""
    # Layers and what belongs to them are recognised by their classes.
    for name, part in list(module.named_modules()):
        made = _make_module(part)
        if made is not None:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, made)


def _make_module(part: nn.Module) -> nn.Module | None:
    """Make the module that a graph of one operator is; None for any other."""
    graph = getattr(part, "graph", None)
    if graph is None:
        return None
    calls = [node for node in graph.nodes if node.op.startswith("call")]
    if len(calls) != 1:
        return None
    (call,) = calls
    rectifier = find_rectifier(call.target, call.args[1:], call.kwargs)
    if rectifier is not None:
        return rectifier
    return _make_normalisation(part, call) or _make_layer(part, call)


def _make_normalisation(part: nn.Module, call: Any) -> nn.Module | None:
    """Make a normalisation, a dropout or a rectifier with a weight; None for any other."""
    target, given = str(call.target), call.args
    own = {**part._parameters, **part._buffers}
    channels = _count(own.get("weight"))
    made: nn.Module
    if target == "aten.dropout.default" and given[2] is False:
        return nn.Identity()
    if target == "aten.prelu.default":
        made = nn.PReLU(channels)
    elif target == "aten.batch_norm.default" and given[5] is False and "running_var" in own:
        made = BatchNorm(_count(own["running_var"]), eps=given[7], affine=channels > 0)
    elif target == "aten.group_norm.default" and channels:
        made = nn.GroupNorm(given[1], channels, eps=given[4])
    elif target == "aten.instance_norm.default" and given[5] is True and channels:
        made = InstanceNorm(channels, eps=given[7], affine=True)
    else:
        return None
    made._parameters.update(part._parameters)
    made._buffers.update({**dict.fromkeys(made._buffers), **part._buffers})
    return made.eval()


def _count(weight: Tensor | None) -> int:
    """The number of channels that a weight has; 0 without one."""
    return 0 if weight is None else len(weight)


def _make_layer(part: nn.Module, call: Any) -> nn.Module | None:
    """Make the linear or convolutional layer of an operator; None for any other."""
    if not hasattr(part, "weight"):
        return None
    target = str(call.target)
    weight: Any = part.weight
    given = list(call.args[3:])

    def option(index: int, default: Any) -> Any:
        return given[index] if index < len(given) else default

    if target == "aten.linear.default":
        made: nn.Module = nn.Linear(weight.shape[1], weight.shape[0])
    elif target in ("aten.conv1d.default", "aten.conv2d.default"):
        kind = nn.Conv1d if weight.ndim == 3 else nn.Conv2d
        stride, padding, dilation, groups = option(0, 1), option(1, 0), option(2, 1), option(3, 1)
        size = tuple(weight.shape[2:])
        made = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            size,
            _as_tuple(stride),
            _as_tuple(padding),
            _as_tuple(dilation),
            groups,
        )
    elif target == "aten.conv_transpose2d.input":
        stride, padding, output_padding = option(0, 1), option(1, 0), option(2, 0)
        groups, dilation = option(3, 1), option(4, 1)
        made = nn.ConvTranspose2d(
            weight.shape[0],
            weight.shape[1] * groups,
            tuple(weight.shape[2:]),
            _as_tuple(stride),
            _as_tuple(padding),
            _as_tuple(output_padding),
            groups,
            dilation=_as_tuple(dilation),
        )
    else:
        return None
    made.weight = weight
    made.register_parameter("bias", getattr(part, "bias", None))
    return made.eval()


def _as_tuple(option: Any) -> Any:
    return option if isinstance(option, (int, str)) else tuple(option)
