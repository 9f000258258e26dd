"""Builds on a device of their own, without one: tensors that say they lie elsewhere and hold their
numbers on the CPU.

What a GPU would refuse is refused: operators on tensors of both places, numbers taken without
bringing them over, and steps of fused Adam on tensors that lie in memory otherwise than their
gradients. What its kernels give is tested at the end, where there is one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

import editspec
import editspec.engine.session
from editspec.worlds.skyline.bench.propagation import Example, propagate_edit
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.source import Source
from editspec_runtime.maths import channelwise_descent
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.channelwise_least_squares import ChannelwiseProblem
from editspec_runtime.methods import least_squares
from editspec_runtime.patches.patch import Patch

PATIENCE = 300
"""Seconds after which a wait for something that has to happen is given up."""

AWAY = torch.device("meta")
BETWEEN = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put", "aten::index_put_")
"""What takes tensors of both places: copies, and indices of the CPU."""
GOLDEN = Path(__file__).parents[1] / "golden"
PROGGAN = GOLDEN / "pg_state_dict.safetensors"
TRANSFORMERS = GOLDEN / "transformer"


class Away(Tensor):
    """A tensor on the device; `here` are its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        made: Away = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=AWAY,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(operator, args, kwargs or {})


class Device(TorchDispatchMode):
    """Within this, what is made on or brought to the device is there."""

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(operator, args, kwargs or {})


def computed(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What an operator gives, where its arguments are or where it is told."""
    name = operator._schema.name
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    away = {id(each.here): each for each in tensors if isinstance(each, Away)}
    others = [each for each in tensors if not isinstance(each, Away) and each.ndim]
    if away and others and name not in BETWEEN:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}")
    if away and name == "aten::_fused_adam_":
        require_same_layout(args[:4])
    there = bool(away)
    if kwargs.get("device") is not None:
        there, kwargs = (
            torch.device(kwargs["device"]) == AWAY,
            {**kwargs, "device": torch.device("cpu")},
        )
    found = operator(
        *tree_map_only(Away, lambda each: each.here, args),
        **tree_map_only(Away, lambda each: each.here, kwargs),
    )

    def placed(each: Any) -> Any:
        if not (there and isinstance(each, Tensor)):
            return each
        return (
            away[id(each)] if id(each) in away else Away(each)
        )  # what is changed in place stays what it is

    return tree_map(placed, found)


def require_same_layout(columns: tuple[list[Tensor], ...]) -> None:
    """Raise a `RuntimeError` unless tensors, gradients and moments lie alike in memory; one
    position lies any way.
    """
    for row in zip(*columns, strict=True):
        if (
            len({tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1) for t in row})
            > 1
        ):
            raise RuntimeError(
                "params, grads, exp_avgs, and exp_avg_sqs must have same dtype, device, and layout"
            )


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(editspec.engine.session, "pick_device", lambda name: AWAY)
    make = torch.tensor

    def make_and_bring(numbers: Any, *, device: Any = "cpu", **named: Any) -> Tensor:
        return make(numbers, **named).to(device)

    # It asks no operator where numbers go, so that the mode does not see it.
    monkeypatch.setattr(torch, "tensor", make_and_bring)
    with Device():
        yield


def test_the_device_refuses_what_a_gpu_refuses(device: None) -> None:
    there, here = torch.ones(2, device=AWAY), torch.ones(2)
    assert there.device == AWAY
    assert ((there + torch.ones(())).cpu() + here).tolist() == [3, 3]
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    free = torch.ones(2, 3, device=AWAY, requires_grad=True)
    for gradient, alike in (
        (torch.ones(2, 3, device=AWAY), True),
        (torch.ones(3, 2, device=AWAY).T, False),
    ):
        free.grad = gradient
        if alike:
            Adam([free], 0.1).step()
        else:
            with pytest.raises(RuntimeError, match="layout"):
                Adam([free], 0.1).step()
    assert free.detach().cpu().max() < 1
    assert (torch.tensor([1.0], device=AWAY) + 1).cpu().tolist() == [2]


METHODS: dict[str, dict[str, Any]] = {
    "projected-gradient": {"steps": 12},
    "direct": {"steps": 5},
    "least-squares": {},
    "closed-form": {},
    "low-rank": {"steps": 12},
    "layer": {"steps": 12},
    "all-weights": {"steps": 1, "learning_rate": 0.0005},
}
KEPT: dict[str, Any] = {
    "preserve": [{"latents": [5, 6], "mask": {"box": [0, 0, 16, 32]}}, {"latent": 7, "weight": 2}],
    "solver": {"method": "least-squares", "collateral_weight": 0.3},
}
LEARNED = {**KEPT, "rank": 2, "directions": "learned"}
NEAREST = {"nearest": {"latents": [3, 4, 8], "except": {"box": [8, 8, 24, 24]}}}


def box(size: int) -> dict[str, list[int]]:
    return {"box": [size // 4, size // 4, 3 * size // 4, 3 * size // 4]}


def image_spec(family: str, *edits: dict[str, Any]) -> dict[str, Any]:
    """A spec of edits that copy from one image to another where they say nothing else."""
    weights, size = (PROGGAN, 64) if family == "proggan" else ("base.safetensors", 32)
    sides = {"source": {"latent": 1, "mask": box(size)}, "target": {"latent": 2, "mask": box(size)}}
    return {
        "version": 1,
        "model": {"family": family, "weights": str(weights)},
        "statistics": {"samples": 16},
        "edits": [{"name": f"e{number}", **sides, **edit} for number, edit in enumerate(edits)],
    }


def text_spec(model: str, **fields: Any) -> dict[str, Any]:
    """A spec of two facts, the second of which protects the first."""
    pairs = []
    for fact in json.loads((TRANSFORMERS / "edits.json").read_text())[:2]:
        asked = {"prompt": fact["prompt"], "subject": fact["subject"]}
        pairs.append({"source": {"text": fact["target"]}, "target": asked})
    common = {"context": ["The ", "In short: "], "optimise": {"evaluations": 3}, **fields}
    return {
        "version": 1,
        "model": {"family": "transformer", "weights": model},
        "statistics": {"corpus": "corpus.txt", "tokens": 400, "seed": 1},
        "edits": [
            {"name": "first", **common, **pairs[0]},
            {"name": "second", **common, **pairs[1], "protect": "previous"},
        ],
    }


def solved(method: str, layer: str) -> dict[str, Any]:
    return {"layer": layer, "solver": {"method": method, **METHODS[method]}}


CASES: dict[str, dict[str, Any]] = {
    **{
        f"stylegan2 {method}": image_spec("stylegan2", solved(method, "layer5"))
        for method in METHODS
        if method != "closed-form"
    },
    # A layer that doubles the resolution.
    **{
        f"stylegan2 up {method}": image_spec("stylegan2", solved(method, "layer6"))
        for method in ("projected-gradient", "least-squares")
    },
    # What is of a method is the same for every generator.
    **{
        f"proggan {method}": image_spec("proggan", solved(method, "layer5"))
        for method in ("projected-gradient", "least-squares", "closed-form")
    },
    "learned": image_spec("stylegan2", {"layer": "layer5", **LEARNED}),
    "whole": image_spec("stylegan2", {"layer": "layer5", **KEPT, "rank": "full"}),
    "refined": image_spec(
        "stylegan2", {"layer": "layer5", **LEARNED, "refine": {"steps": 3, "at": "layer6"}}
    ),
    "refined whole": image_spec(
        "stylegan2", {"layer": "layer5", **KEPT, "rank": "full", "refine": {"steps": 3}}
    ),
    "protected": image_spec(
        "proggan",
        {"layer": "layer5", "rank": 2},
        {"layer": "layer5", "rank": 2, "source": NEAREST, "protect": "previous"},
    ),
    "null-space": text_spec("gpt2", layers=["layer1", "layer2"], solver="null-space"),
    "closed-form": text_spec("llama", layer="layer1", solver="closed-form"),
    "least-squares": text_spec("llama", layers=["layer1", "layer2"], solver="least-squares"),
}


@pytest.fixture
def path(
    request: pytest.FixtureRequest, make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> Path:
    """The spec of a case, beside the models that it names."""
    save_file(make_tiny(), tmp_path / "base.safetensors")
    for model in ("gpt2", "llama"):
        shutil.copytree(TRANSFORMERS / "models" / model, tmp_path / model)
        shutil.copy(TRANSFORMERS / "tokenizer.json", tmp_path / model)
    shutil.copy(TRANSFORMERS / "corpus.txt", tmp_path)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(request.param))
    return tmp_path / "spec.yaml"


SMALL = "stylegan2 least-squares"

every_case = pytest.mark.parametrize("path", CASES.values(), ids=CASES, indirect=True)


def attend_in_steps(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float,
    enable_gqa: bool,
) -> Tensor:
    """Attention without the fused operator, as on a device, whose numbers differ in their bits."""
    repeats = queries.shape[1] // keys.shape[1]
    if enable_gqa and repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    scores = (queries * scale) @ keys.mT
    if is_causal:
        assert attn_mask is None
        attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
    assert attn_mask is not None
    return scores.masked_fill(~attn_mask, -torch.inf).softmax(-1) @ values


@every_case
def test_a_build_on_a_device_is_that_on_the_cpu(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attend_in_steps)
    # On the device, however small they are.
    monkeypatch.setattr(least_squares, "FEW_OPERATIONS", 0)
    pareto = yaml.safe_load(path.read_text()) == CASES[SMALL]
    before = editspec.build(path, tmp_path / "here", device="cpu", pareto=pareto).edits
    path.with_name("spec.yaml.lock").unlink()
    request.getfixturevalue("own_cache").joinpath("solutions").rename(tmp_path / "solutions")
    request.getfixturevalue("device")
    after = editspec.build(path, tmp_path / "there", pareto=pareto).edits
    for here, there in zip(before, after, strict=True):
        assert there.seconds["solve"] > 0
        assert there.rule.rules[0].key.device == AWAY
        assert there.patch.metadata["content"] == here.patch.metadata["content"]
        assert (there.loss, there.residual) == (here.loss, here.residual)


@pytest.mark.parametrize(
    "path", [CASES[SMALL], CASES["learned"]], ids=[SMALL, "learned"], indirect=True
)
def test_a_small_rule_is_solved_on_the_cpu(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    descend = channelwise_descent._descend

    def record(problem: ChannelwiseProblem, weight: float, start: Tensor) -> Tensor:
        places.append(problem.value.device.type)
        return descend(problem, weight, start)

    monkeypatch.setattr(channelwise_descent, "_descend", record)
    before = editspec.build(path, tmp_path / "here", device="cpu").edits
    path.with_name("spec.yaml.lock").unlink()
    request.getfixturevalue("own_cache").joinpath("solutions").rename(tmp_path / "solutions")
    request.getfixturevalue("device")
    after = editspec.build(path, tmp_path / "there").edits
    for here, there in zip(before, after, strict=True):
        assert there.rule.rules[0].key.device == AWAY
        assert there.patch.metadata["content"] == here.patch.metadata["content"]
    assert places == ["cpu"] * 2 * len(before)


class Table(nn.Module):
    """A network that looks up where its channels go, in tensors that are no part of its state
    dict.
    """

    order: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedded = nn.Linear(4, 4)
        self.register_buffer("order", torch.tensor([3, 2, 1, 0]), persistent=False)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        moved: Tensor = self.embedded(latents).gather(1, self.order.expand(len(latents), -1))
        return self.scale * moved


def test_buffers_of_a_network_go_where_its_weights_are() -> None:
    weights = {name: tensor.double() for name, tensor in Table().state_dict().items()}
    latents = torch.ones(1, 4).double()
    wanted = TorchModule(weights, Source(Table(), "", latent_shape=(4,))).images(latents)
    with Device():
        there = {name: tensor.to(AWAY) for name, tensor in weights.items()}
        network = TorchModule(there, Source(Table(), "", latent_shape=(4,)))
        assert network.module.order.dtype == torch.int64
        assert network.module.scale.dtype == torch.float64
        assert torch.equal(network.images(latents.to(AWAY)).cpu(), wanted)


@pytest.mark.parametrize("laplace", [False, True])
def test_an_edit_is_carried_over_to_an_image_that_lies_elsewhere(laplace: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(3, side, side, generator=generator) for side in (4, 8)]
    image, edited = torch.rand(2, 3, 16, 16, generator=generator)
    area = torch.zeros(16, 16)
    area[4:12, 4:12] = 1
    example = Example(features, edited, area)
    wanted = propagate_edit(example, features, image, laplace=laplace)
    assert not torch.equal(wanted, image)
    with Device():
        maps = [each.to(AWAY) for each in features]
        found = propagate_edit(
            replace(example, features=maps), maps, image.to(AWAY), laplace=laplace
        )
        assert found.device == AWAY
        assert torch.equal(found.cpu(), wanted)


def test_a_gpu_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # Without one, torch.cuda.set_device refuses it.
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_kernels_are_reproducible_where_something_is_computed() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def flags() -> list[bool]:
        return [cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32]

    before, gpu = flags(), torch.device("cuda:0")
    assert before != [True, False, False, False]
    with reproducible_kernels(torch.device("cpu")):
        assert flags() == before
    with reproducible_kernels(gpu):
        assert flags() == [True, False, False, False]
        inside, leave = Event(), Event()

        def compute() -> None:
            with reproducible_kernels(gpu):
                inside.set()
                leave.wait(PATIENCE)

        thread = Thread(target=compute)
        thread.start()
        assert inside.wait(PATIENCE)
    # Another thread is still computing.
    assert flags() == [True, False, False, False]
    leave.set()
    thread.join()
    assert flags() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@every_case
def test_a_build_on_a_gpu_repeats_and_is_near_that_on_the_cpu(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str, device: str) -> list[Patch]:
        monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / f"cache-{name}"))
        path.with_name("spec.yaml.lock").unlink(missing_ok=True)
        return [each.patch for each in editspec.build(path, tmp_path / name, device=device).edits]

    before, after = build("here", "cpu"), build("there", "cuda")
    contents = [patch.metadata["content"] for patch in after]
    assert [patch.metadata["content"] for patch in build("again", "cuda")] == contents
    for here, there in zip(before, after, strict=True):
        for parameter in here.parameters:
            wanted, found = here.delta(parameter), there.delta(parameter)
            assert wanted.norm() > 0
            assert (found - wanted).norm() <= 1e-2 * wanted.norm()
