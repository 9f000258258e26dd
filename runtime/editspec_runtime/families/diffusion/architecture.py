"""The cross-attention matrices of a U-Net, read from names, shapes and configuration; no torch.

A layer is one matrix that reads the text: its key is what the text encoder gives for a token, its
value what the attention takes for that token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from editspec_runtime.core.architecture import Architecture, Layer, wrong_numbers
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.diffusion.config import SUPPORTED, PipelineConfig
from editspec_runtime.families.shapes import list_problems
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.io.parts import EDITED, ENCODERS

FAMILY = "diffusion"

KEY, VALUE, QUERY = "to_k", "to_v", "to_q"
MATRICES = (KEY, VALUE)

FUSED = ("to_kv.weight", "to_qkv.weight")
"""The ends of the names of matrices that are keys and values in one."""

ALL = "cross-attention"
"""What stands for all layers in a spec."""

KEYS = "text"
"""The name of the keys that all layers read."""


@dataclass(frozen=True)
class DiffusionArchitecture(Architecture):
    """The cross-attention of a U-Net.

    Attributes
    ----------
    config
        The configuration; None where only names and shapes are known.
    """

    config: PipelineConfig | None = field(default=None, kw_only=True)


def read_architecture(
    tensors: Mapping[str, TensorInfo], config: PipelineConfig | None = None
) -> DiffusionArchitecture:
    """Read the layers of a text-to-image model.

    Parameters
    ----------
    tensors
        Names and shapes of the tensors, with the folder of their model before them.
    config
        The configuration. Without it, attention that reads the text is told by shapes alone.

    Raises
    ------
    WeightsError
        These are other weights, keys and values are fused, or no attention reads the text.
    """
    if not any(name.startswith(f"{EDITED}/") for name in tensors):
        found = ", ".join(sorted(tensors)[:4]) or "no tensors"
        raise WeightsError(
            f"These weights are not those of a folder of diffusers with a U-Net; found {found}.",
            f"These are known: {SUPPORTED}.",
        )
    fused = [name for name in tensors if name.endswith(FUSED)]
    if fused:
        raise WeightsError(
            f"The attention of this U-Net is fused ({fused[0]}): keys and values are one matrix.",
            "Save the model after unet.unfuse_qkv_projections().",
        )
    width = _text_width(tensors) if config is None else config.width
    layers, problems = _find_layers(tensors, width, config)
    problems += wrong_numbers(tensors, [layer.parameter for layer in layers.values()])
    if problems:
        raise WeightsError(
            f"The cross-attention of this U-Net does not fit:\n{list_problems(problems[:8])}",
            "Give the weights and the configuration of one model.",
        )
    if not layers:
        raise WeightsError(
            f"No attention of this U-Net reads a text of {width} numbers for a token with separate "
            f"{KEY} and {VALUE}.",
            f"These are known: {SUPPORTED}.",
        )
    groups = {ALL: tuple(layers)}
    for matrix in MATRICES:
        groups[matrix] = tuple(name for name in layers if name.endswith(f".{matrix}"))
    details = {} if config is None else dict(config.details)
    return DiffusionArchitecture(FAMILY, layers, details=details, groups=groups, config=config)


def _find_layers(
    tensors: Mapping[str, TensorInfo], width: int, config: PipelineConfig | None
) -> tuple[dict[str, Layer], list[str]]:
    """Find the matrices that read the text, and what does not fit, in words."""
    layers: dict[str, Layer] = {}
    problems: list[str] = []
    for module in _modules(tensors):
        if not _reads_text(module, tensors, width, config):
            continue
        for matrix in MATRICES:
            name = f"{module}.{matrix}.weight"
            info = tensors.get(name)
            if info is None:
                problems.append(f"{name} is missing")
            elif len(info.shape) != 2 or info.shape[1] != width:
                sizes = " x ".join(map(str, info.shape))
                problems.append(f"{name} is {sizes}, expected {width} inputs")
            else:
                layer = _make_layer(module, matrix, info)
                layers[layer.name] = layer
    return layers, problems


def _make_layer(module: str, matrix: str, info: TensorInfo) -> Layer:
    name = f"{module.removeprefix(f'{EDITED}/')}.{matrix}"
    outputs, inputs = info.shape
    parameter = f"{module}.{matrix}.weight"
    return Layer(name, parameter, inputs, outputs, None, None, linear=True, keys=KEYS)


def _modules(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The attention modules of the U-Net in the order of computation: down, middle, up."""
    found: dict[str, None] = {}
    for name in sorted(tensors, key=_natural_order):
        module, _, rest = name.rpartition(".to_")
        if module.startswith(f"{EDITED}/") and rest in ("k.weight", "v.weight"):
            found[module] = None
    return list(found)


def _natural_order(name: str) -> list[tuple[int, int | str]]:
    """The order of names whose numbers count as such."""
    parts: list[tuple[int, int | str]] = []
    for part in name.replace("/", ".").split("."):
        parts.append((0, int(part)) if part.isdigit() else (1, part))
    return parts


def _reads_text(
    module: str,
    tensors: Mapping[str, TensorInfo],
    width: int,
    config: PipelineConfig | None,
) -> bool:
    """Whether the keys of an attention are those of the text, by shapes and configuration."""
    info = tensors.get(f"{module}.{KEY}.weight") or tensors[f"{module}.{VALUE}.weight"]
    if len(info.shape) != 2 or info.shape[1] != width:
        # A first attention reads the image. A second one of another width does not fit the text.
        return _is_second(module) and not _is_image(module, tensors)
    query = tensors.get(f"{module}.{QUERY}.weight")
    if query is not None and query.shape[-1] != width:
        return True
    # The image has the width of the text here, so that the shapes do not tell.
    if _is_second(module):
        return config is None or not config.doubly_self
    return config is not None and config.only_cross


def _is_second(module: str) -> bool:
    return module.endswith(".attn2")


def _is_image(module: str, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether an attention reads what its own queries read."""
    query = tensors.get(f"{module}.{QUERY}.weight")
    key = tensors.get(f"{module}.{KEY}.weight")
    if query is None or key is None:
        return False
    return query.shape[-1] == key.shape[-1]


def _text_width(tensors: Mapping[str, TensorInfo]) -> int:
    """The width of the text by the embeddings of the encoders."""
    total = 0
    for encoder in ENCODERS:
        for name, info in tensors.items():
            named = name.startswith(f"{encoder}/") and name.endswith("token_embedding.weight")
            if named and len(info.shape) == 2:
                total += info.shape[1]
    return total
