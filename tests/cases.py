"""One tiny model per family, and a problem of each method that fits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from editspec_runtime.core.method import (
    CHANNELWISE,
    DIRECTIONS,
    ERASED_UNITS,
    LINEAR,
    MATRIX,
    OUTPUTS,
    RANK,
    KeyStatistics,
    Method,
    Problem,
)
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import CompiledEdit, LayerRule
from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.source import Points, Source, run_factory
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.maths.channelwise import is_channelwise
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.maps import Box

GOLDEN = Path(__file__).parent / "golden"
UNITS = (0, 2)
"""The units that a source erases, of the methods that need some."""
SETTINGS: dict[str, dict[str, Any]] = {
    "projected-gradient": {"steps": 40, "learning_rate": 0.02, "project_every": 1},
    "direct": {"steps": 40, "learning_rate": 0.02},
    "low-rank": {"steps": 40, "learning_rate": 0.02},
    "layer": {"steps": 20, "learning_rate": 0.005},
    "all-weights": {"steps": 5, "learning_rate": 1e-4},
}
"""Settings under which a tiny problem is solved in a moment."""


def draw_normal(*shape: int, seed: int = 0) -> Tensor:
    """Draw normal numbers of a shape in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def draw_normal_f32(*shape: int, seed: int = 0) -> Tensor:
    """Draw normal numbers of a shape in float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The norm of a difference over the norm of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())


def tensor_infos(weights: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """Weights as the header of a float32 file describes them."""
    return {name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in weights.items()}


def tiny_stylegan2(
    seed: int = 0, size: int = 32, channels: int = 6, latent_size: int = 8
) -> dict[str, Tensor]:
    """Random weights of a StyleGAN2 with a handful of channels, by their names inside ``g_ema``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights = {"input.input": normal(1, channels, 4, 4)}
    for number in (1, 2):
        weights |= {f"style.{number}.weight": normal(latent_size, latent_size) / 0.01}
        weights |= {f"style.{number}.bias": normal(latent_size)}
    names, resolution = ["conv1"], 4
    while 2 ** (len(names) // 2 + 2) < size:
        names += [f"convs.{len(names) - 1}", f"convs.{len(names)}"]
    for number, name in enumerate(names):
        resolution = 2 ** ((number + 1) // 2 + 2)
        weights |= {
            f"{name}.conv.weight": normal(1, channels, channels, 3, 3),
            f"{name}.conv.modulation.weight": normal(channels, latent_size),
            f"{name}.conv.modulation.bias": torch.ones(channels),
            f"{name}.noise.weight": 0.1 * normal(1),
            f"{name}.activate.bias": 0.1 * normal(channels),
            f"noises.noise_{number}": normal(1, 1, resolution, resolution),
        }
        if number % 2 == 0:
            rgb = "to_rgb1" if number == 0 else f"to_rgbs.{number // 2 - 1}"
            weights |= {
                f"{rgb}.conv.weight": normal(1, 3, channels, 1, 1),
                f"{rgb}.conv.modulation.weight": normal(channels, latent_size),
                f"{rgb}.conv.modulation.bias": torch.ones(channels),
                f"{rgb}.bias": torch.zeros(1, 3, 1, 1),
            }
    return weights


@dataclass(frozen=True)
class Case:
    """A tiny model of a family.

    Attributes
    ----------
    make
        Makes the model in a precision.
    layer, later
        A layer to edit, and one that comes after it.
    """

    make: Callable[[torch.dtype], Generator]
    layer: str
    later: str


def _make_stylegan2(dtype: torch.dtype) -> Generator:
    return StyleGAN2({name: tensor.to(dtype) for name, tensor in tiny_stylegan2().items()})


def _make_proggan(dtype: torch.dtype) -> Generator:
    weights = load_file(GOLDEN / "pg_state_dict.safetensors")
    return ProgressiveGAN({name: tensor.to(dtype) for name, tensor in weights.items()})


def _make_module(dtype: torch.dtype) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.ConvTranspose2d(5, 6, 4, 2, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(6, 3, 1),
        ).to(dtype)
    points = {
        "first": Points("0", "1", "0.weight"),
        "second": Points("2", "3", "2.weight"),
    }
    source = Source(module, "code", points, (5, 4, 4))
    return TorchModule(dict(module.state_dict()), source)


CASES = {
    "stylegan2": Case(_make_stylegan2, "layer5", "layer6"),
    "proggan": Case(_make_proggan, "layer5", "layer6"),
    "torch": Case(_make_module, "first", "second"),
}
"""A case of each family, by the family's name."""


@dataclass(frozen=True)
class Given:
    """An edit of a tiny model, and how it is solved."""

    model: Generator
    edit: CompiledEdit
    problem: Problem


def fits(family: str, method: Method) -> bool:
    """Whether the layer of a family's case is one that a method can edit."""
    model, layer = _model(family, torch.float64), CASES[family].layer
    if LINEAR in method.needs and not model.layer(layer).linear:
        return False
    if MATRIX in method.needs and model.layer(layer).has_taps:
        return False
    return CHANNELWISE not in method.needs or is_channelwise(model.function(layer))


@cache
def _model(family: str, dtype: torch.dtype) -> Generator:
    return CASES[family].make(dtype)


def given(
    family: str,
    name: str,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    layers: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Given:
    """An edit of the case of a family by a method: the values of one image in another's place.

    `seed` names the two images. With two `layers` the later one is edited, too.
    """
    method, case, model = METHODS[name], CASES[family], _model(family, dtype)
    edited = [case.layer, case.later][:layers]
    rules = [_LazyRule(layer, method, dtype, seed) for layer in edited]
    own = method.make_settings(**{**SETTINGS.get(name, {}), **(settings or {})})
    rank = None
    if ERASED_UNITS in method.needs:
        rank = len(UNITS)
    elif RANK in method.takes:
        rank = 2
    directions = "zca" if DIRECTIONS in method.takes else None
    provenance = {"base": "base", "parent": "parent", "edit": f"edit {seed}"}
    edit = CompiledEdit("e", family, rules, own, rank, directions, provenance)
    problem = Problem(model, rules, own, rank, directions, statistics_of, EDITSPEC)
    return Given(model, edit, problem)


def latents_of(model: Generator, count: int, seed: int) -> Tensor:
    """Latents [count, latent_size] in the precision of a model."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, model.architecture.latent_size, generator=generator)
    return model.to_model(drawn.double())


def statistics_of(model: Model, layer: str) -> KeyStatistics:
    """C of a layer's keys over a few images."""

    def compute_moment() -> Tensor:
        assert isinstance(model, Generator)
        with torch.no_grad():
            keys = model.keys(layer, latents_of(model, 24, 1000)).rows()[0].double()
        return keys.T @ keys / len(keys)

    return KeyStatistics(compute_moment, lambda: pytest.fail("no sample is needed"))


@dataclass(frozen=True)
class _LazyRule:
    """The values of one image in the place of another's, at a layer of the model as it stands."""

    layer: str
    method: Method
    dtype: torch.dtype
    seed: int

    @torch.no_grad()
    def __call__(self, model: Model) -> LayerRule:
        assert isinstance(model, Generator)
        layer, shape = self.layer, model.layer(self.layer)
        latents = latents_of(model, 2, self.seed)
        trace, other = (model.trace(layer, latent[None]) for latent in latents)
        size = shape.key_size
        region = Box(0, 1, size // 2 + 1, size)
        covered = region.scale_up(shape.scale)
        key, arguments = model.crop(layer, trace, region)
        context = trace.key[0, :, region.rows(), region.columns()].flatten(1).T
        weights = context.new_ones(len(context))
        units = UNITS if ERASED_UNITS in self.method.needs else ()
        if OUTPUTS in self.method.needs:
            key, value, arguments = self._outputs(model, latents)
        elif units:
            erased = key.clone()
            erased[:, list(units)] = 0
            value = model.function(layer)(erased, model.weight(layer), arguments)
        else:
            value = model.layer_value(layer, other)[:, :, covered.rows(), covered.columns()]
        return LayerRule(
            layer, shape.parameter, key, value, arguments, context, weights, units=units
        )

    def _outputs(
        self, model: Generator, latents: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        target, source = (model.images(latent[None]) for latent in latents)
        middle = target.shape[-1] // 2
        composited, area = target.clone(), torch.zeros_like(target[:, :1])
        composited[..., middle:] = source[..., middle:]
        area[..., middle:] = 1
        return latents[:1], composited, {"area": area}


PAIRS = [
    (family, name) for family in CASES for name, method in METHODS.items() if fits(family, method)
]
"""Every family with every method that fits it."""


def draw_network(factory: str, seed: int) -> dict[str, Tensor]:
    """Random weights of the network of a factory in this folder; variances are positive."""
    network, _ = run_factory(factory, Path(), allow_code=True)
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in network.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=random)
        positive = name.endswith(("running_var", "bias"))
        weights[name] = (drawn.abs() + 0.5 if positive else drawn).to(tensor.dtype)
    return weights
