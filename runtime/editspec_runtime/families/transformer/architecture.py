"""The layers of a transformer, read from its configuration and its names and shapes; no torch.

``layerN`` is the second matrix of the MLP of block N: the memory whose key is the input of that
matrix and whose value is its output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from editspec_runtime.core.architecture import Architecture, Layer, wrong_numbers
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.shapes import fits_shape, list_problems, say_shape
from editspec_runtime.families.transformer.config import SUPPORTED, TransformerConfig, parse_config
from editspec_runtime.families.transformer.layouts import Layout, find_layout
from editspec_runtime.io.headers import TensorInfo

QUANTISED = ("qweight", "qzeros", "scales", "g_idx", "weight_scale", "absmax", "quant_map")
"""The last parts of names that only quantised weights have."""

FAMILY = "transformer"


@dataclass(frozen=True)
class TransformerArchitecture(Architecture):
    """The layers of a transformer.

    Attributes
    ----------
    config
        The numbers of the model; None where only names and shapes are known.
    layout, base
        The names of its tensors, and the text before all of them but the head's.
    """

    config: TransformerConfig | None = field(kw_only=True)
    layout: Layout = field(kw_only=True)
    base: str = field(kw_only=True)

    def block_of(self, layer: str) -> int:
        """The number of the block of a layer."""
        return list(self.layers).index(layer)


def read_architecture(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None = None
) -> TransformerArchitecture:
    """Read the layers of a transformer.

    Parameters
    ----------
    tensors
        Names and shapes of its tensors.
    config
        The content of ``config.json``. Without it, the names alone tell the layout.

    Raises
    ------
    WeightsError
        The architecture is unknown, the weights are quantised, or tensors are missing or of other
        shapes than the configuration says.
    """
    quantised = [name for name in tensors if name.rpartition(".")[2] in QUANTISED]
    if quantised:
        raise WeightsError(
            f"These weights are quantised ({quantised[0]}), so that no change can be added to "
            "them.",
            "Get the model in float32, float16 or bfloat16.",
        )
    layout = find_layout(tensors)
    known = None if config is None else parse_config(config, layout)
    if known is not None:
        layout = known.layout
    if layout is None:
        found = ", ".join(sorted(tensors)[:6]) or "no tensors"
        raise WeightsError(
            f"These weights are not a transformer of a known layout; found {found}.",
            f"These are known: {SUPPORTED}.",
        )
    base = layout.find_base(tensors)
    problems = _problems(tensors, layout, base, known)
    if config is not None and config.get("tie_word_embeddings") is False:
        head = f"{layout.head}.weight"
        if head not in tensors:
            problems.append(f"{head} is missing (tie_word_embeddings: false)")
    if problems:
        raise WeightsError(
            f"These weights are not those of the configuration:\n{list_problems(problems)}",
            "Give weights and config.json of one model.",
        )
    layers = {}
    for number in range(layout.count_blocks(base, tensors)):
        parameter = f"{layout.part(base, number, layout.down)}.weight"
        first, second = tensors[parameter].shape
        # By the family alone: of a square matrix the shape would not tell.
        inputs, outputs = (first, second) if layout.inputs_first else (second, first)
        name = f"layer{number}"
        axes = "i o" if layout.inputs_first else "o i"
        layers[name] = Layer(name, parameter, inputs, outputs, None, None, linear=True, axes=axes)
    details = _details(known, _rows(tensors, layout, base))
    return TransformerArchitecture(
        FAMILY, layers, details=details, config=known, layout=layout, base=base
    )


def _rows(tensors: Mapping[str, TensorInfo], layout: Layout, base: str) -> int:
    """The number of tokens that the table of embeddings has a row for."""
    return tensors[f"{base}{layout.embedding}.weight"].shape[0]


def _details(config: TransformerConfig | None, rows: int) -> dict[str, Any]:
    if config is None:
        return {}
    return {
        "model_type": config.kind,
        "width": config.width,
        "heads": config.heads,
        "vocabulary": config.vocabulary,
        "embeddings": rows,
        "context": config.context,
    }


def _problems(
    tensors: Mapping[str, TensorInfo], layout: Layout, base: str, config: TransformerConfig | None
) -> list[str]:
    """List everything that is missing or does not fit, in words."""
    problems = []
    count = layout.count_blocks(base, tensors)
    if config is not None and count != config.blocks:
        last = f"{base}{layout.block.format(config.blocks - 1)}."
        if count < config.blocks and any(name.startswith(last) for name in tensors):
            count = config.blocks  # there is a gap, which is told by the names of its tensors
        else:
            said = "is 1 block" if count == 1 else f"are {count} blocks"
            problems.append(f"there {said}, expected {config.blocks}")
    expected = _expected(layout, base, count, config, tensors)
    for name, wanted in expected.items():
        found = tensors.get(name)
        if found is None:
            problems.append(f"{name} is missing (expected {say_shape(wanted)})")
        elif not fits_shape(found.shape, wanted):
            problems.append(f"{name} is {say_shape(found.shape)}, expected {say_shape(wanted)}")
    return (problems + wrong_numbers(tensors, expected))[:8]


def _expected(
    layout: Layout,
    base: str,
    blocks: int,
    config: TransformerConfig | None,
    tensors: Mapping[str, TensorInfo],
) -> dict[str, tuple[int | None, ...]]:
    """The shapes of the matrices that every model of a layout has."""
    width = vocabulary = queries = keys = None
    if config is not None:
        width, vocabulary = config.width, config.vocabulary
        queries, keys = config.heads * config.head_size, config.groups * config.head_size
    # Tables of tokens may be padded to a round number.
    del vocabulary
    expected: dict[str, tuple[int | None, ...]] = {
        f"{base}{layout.embedding}.weight": (None, width),
        f"{base}{layout.final_norm}.weight": (width,),
    }
    if layout.positions:
        expected[f"{base}{layout.positions}.weight"] = (None, width)

    def expect(block: int, name: str, outputs: int | None, inputs: int | None) -> None:
        shape = (inputs, outputs) if layout.inputs_first else (outputs, inputs)
        expected[f"{layout.part(base, block, name)}.weight"] = shape

    for block in range(blocks):
        expected[f"{layout.part(base, block, layout.attention_norm)}.weight"] = (width,)
        if layout.fused:
            fused = None if queries is None else 3 * queries
            expect(block, layout.fused, fused, width)
        else:
            expect(block, layout.query, queries, width)
            expect(block, layout.key, keys, width)
            expect(block, layout.value, keys, width)
        expect(block, layout.attention_out, width, queries)
        for norm in (layout.mlp_norm, *(layout.after_norms or ())):
            if norm:
                expected[f"{layout.part(base, block, norm)}.weight"] = (width,)
        expect(block, layout.up, None, width)
        up = tensors.get(f"{layout.part(base, block, layout.up)}.weight")
        features = None
        if up is not None and len(up.shape) == 2:
            features = up.shape[1] if layout.inputs_first else up.shape[0]
        if layout.gate:
            expect(block, layout.gate, features, width)
        expect(block, layout.down, width, features)
    return expected
