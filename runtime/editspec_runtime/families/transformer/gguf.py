"""Models in GGUF files, by the names and the numbers that the hub has for them.

The package ``gguf`` reads the file and dequantises its tensors. What the programs that write such
files change of a model is taken back here: llama.cpp's ``convert_hf_to_gguf.py`` has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.errors import WeightsError, reading_foreign
from editspec_runtime.families.foreign import ForeignModel
from editspec_runtime.families.transformer.architecture import FAMILY
from editspec_runtime.families.transformer.config import FILE
from editspec_runtime.families.transformer.gguf_config import CONFIGS, Gguf, make_config
from editspec_runtime.families.transformer.gguf_tokenizer import make_tokenizer
from editspec_runtime.families.transformer.layouts import Layout
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.modalities.text.fields import TOKENIZER

EXTRA = "gguf"

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
"""The kinds of tensors that are not quantised."""

FACTORS = "rope_freqs.weight"
"""What a file holds of the scaling of rotary positions, which `make_config` reads."""


def read_gguf(path: Path) -> ForeignModel:
    """Read a GGUF file.

    Raises
    ------
    FileError
        It is damaged.
    WeightsError
        Its architecture or its tokenizer is not known here.
    UsageError
        The package ``gguf`` is not installed.
    """
    package = load_extra(EXTRA)
    with reading_foreign(path):
        reader = package.GGUFReader(path)
        said = {name: field.contents() for name, field in reader.fields.items()}
        stored = {tensor.name: tensor for tensor in reader.tensors}
        model = _Model(package, _describe(said, stored), stored)
        config, tokenizer = make_config(model.gguf), make_tokenizer(said)
        model.require_whole()
        kinds = {tensor.tensor_type.name for tensor in stored.values()}
    files = {FILE: json.dumps(config, indent=2).encode() + b"\n", TOKENIZER: tokenizer}
    quantised = tuple(sorted(kinds - set(PLAIN)))
    return ForeignModel(FAMILY, files, model.count, model.tensors, quantised)


def _describe(said: Mapping[str, Any], stored: Mapping[str, Any]) -> Gguf:
    kind = said.get("general.architecture")
    if kind not in CONFIGS:
        raise WeightsError(
            f"This file holds a model of the architecture {kind}, which is not converted.",
            f"These are: {', '.join(CONFIGS)}.",
        )
    # The shapes of GGUF begin with the innermost axis.
    shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in stored.items()}
    factors = None
    if FACTORS in stored:
        factors = torch.from_numpy(stored[FACTORS].data.copy()).double().tolist()
    return Gguf(str(kind), said, shapes, factors)


@dataclass(frozen=True)
class _Model:
    """The tensors of a file, by the names of the hub.

    Attributes
    ----------
    package
        The package that reads the file.
    gguf
        The description of the model.
    stored
        The tensors by their names in the file.
    """

    package: Any
    gguf: Gguf
    stored: Mapping[str, Any]

    @property
    def layout(self) -> Layout:
        """The layout of the model at the hub."""
        return CONFIGS[self.gguf.kind].layout

    @cached_property
    def names(self) -> dict[str, str]:
        """The names at the hub by those in the file, without ``.weight`` and ``.bias``."""
        arch = {name: each for each, name in self.package.MODEL_ARCH_NAMES.items()}
        blocks = self.gguf.number("block_count")
        known = self.package.get_tensor_name_map(arch[self.gguf.kind], blocks)
        found = {}
        for name in self._names_of_hub(blocks):
            # Names with and without the base are known, but not of every architecture.
            own = known.get_name(name) or known.get_name(name.removeprefix(self.layout.base))
            if own is not None:
                found[own] = name
        return found

    def _names_of_hub(self, blocks: int) -> Iterator[str]:
        layout = self.layout
        for name in (layout.embedding, layout.positions, layout.final_norm):
            if name:
                yield f"{layout.base}{name}"
        yield layout.head
        parts = [layout.attention_norm, layout.mlp_norm, layout.attention_out, *layout.after_norms]
        parts += [layout.query, layout.key, layout.value, layout.fused]
        parts += [layout.gate, layout.up, layout.down]
        parts += [name.replace("_proj", "_norm") for name in (layout.query, layout.key) if name]
        for block in range(blocks):
            for part in parts:
                if part:
                    yield layout.part(layout.base, block, part)

    def name_of(self, stored: str) -> str | None:
        """The name at the hub of a tensor; None where it is not one of the model's."""
        stem, _, ending = stored.rpartition(".")
        return f"{self.names[stem]}.{ending}" if stem in self.names else None

    @property
    def count(self) -> int:
        """The number of tensors of the model."""
        return sum(self.name_of(name) is not None for name in self.stored)

    def require_whole(self) -> None:
        """Raise a `WeightsError` where the file holds tensors that have no place in the model."""
        odd = [name for name in self.stored if self.name_of(name) is None and name != FACTORS]
        if odd:
            raise WeightsError(
                f"This file holds tensors that a {self.gguf.kind} does not have: "
                f"{', '.join(sorted(odd)[:6])}.",
                "It is of an architecture that is not known here under this name.",
            )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each tensor with its name at the hub, dequantised where it is quantised."""
        for name, tensor in self.stored.items():
            own = self.name_of(name)
            if own is not None:
                yield own, self._restore(own, self._read(tensor))

    def _read(self, tensor: Any) -> Tensor:
        kind = tensor.tensor_type
        numbers = self.package.quants.dequantize(tensor.data, kind)
        values = torch.from_numpy(numbers.copy())
        return values.to(PLAIN.get(kind.name, torch.float32))

    def _restore(self, name: str, values: Tensor) -> Tensor:
        """Take back what was changed of a tensor when the file was written."""
        part = name.rpartition(".")[0]
        source, layout = CONFIGS[self.gguf.kind], self.layout
        if source.turned and part.endswith((layout.query, layout.key)):
            name = "attention.head_count"
            if part.endswith(layout.key):
                name = "attention.head_count_kv"
            heads = self.gguf.number(name, self.gguf.number("attention.head_count"))
            pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
            return pairs.transpose(1, 2).reshape(values.shape)
        if source.mixed and part.endswith(layout.fused):
            heads = self.gguf.number("attention.head_count")
            split = values.reshape(3, heads, values.shape[0] // 3 // heads, *values.shape[1:])
            return split.transpose(0, 1).reshape(values.shape)
        if layout.inputs_first and values.dim() == 2 and self._is_of_block(part):
            return values.T.contiguous()
        if source.norm_shift and part.endswith("norm"):
            return values - 1
        return values

    def _is_of_block(self, part: str) -> bool:
        return part.startswith(f"{self.layout.base}{self.layout.block.partition('{}')[0]}")
