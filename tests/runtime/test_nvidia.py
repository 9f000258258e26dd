"""NVIDIA's pickles: read without running anything, and drawn as their published description says.

The pickles are made here by a stand-in for NVIDIA's persistence, which writes what theirs writes:
for every module the name of its class, its source code and its attributes. The images are compared
with a second implementation of the generator, written from the description alone: one image and one
kernel at a time, zeros put between the samples, convolutions as sums over taps.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from editspec_runtime.errors import EditError, FileError, WeightsError
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.registry import read_architecture
from editspec_runtime.families.selection import Choice
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.families.stylegan2.nvidia import nvidia_name
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.io.weights_files import write_weights
from editspec_runtime.modalities.image.fields import GeneratorFields
from editspec_runtime.modalities.image.maps import Box

MakeTiny = Callable[..., dict[str, Tensor]]
Change = Callable[[dict[str, nn.Module]], None]


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    exec(meta["module_src"])
    raise AssertionError("the source that a pickle brings was executed")


class EasyDict(dict[str, Any]):
    """A dictionary whose entries are attributes, as NVIDIA's configurations are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Persistent(nn.Module):
    """A module that is pickled as data and source, under the name of a class of NVIDIA's."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        super().__init__()
        self.__dict__.update(attributes)
        self._class_name = class_name

    def __reduce__(self) -> Any:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "open('trap', 'w')",
            "class_name": self._class_name,
            "state": {
                **self.__dict__,
                "_init_args": (),
                "_init_kwargs": EasyDict(channel_base=32768),
            },
        }
        return _reconstruct_persistent_obj, (meta,), None

    def parameter(self, name: str, tensor: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(tensor))

    def buffer(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor)


@pytest.fixture(autouse=True)
def nvidia_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The modules that NVIDIA's pickles name, while pickles are written; and a folder where a trap
    would show.
    """
    monkeypatch.chdir(tmp_path)
    for package, name, thing in (
        ("torch_utils", "persistence", _reconstruct_persistent_obj),
        ("dnnlib", "util", EasyDict),
    ):
        module = types.ModuleType(f"{package}.{name}")
        setattr(module, thing.__name__, thing)
        thing.__module__ = module.__name__
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield
    assert not Path("trap").exists()


def generator(
    size: int = 32,
    channels: int = 6,
    latents: int = 8,
    classes: int = 0,
    clamp: float | None = 256.0,
    seed: int = 0,
    colors: int = 3,
    wiring: str = "skip",
) -> Persistent:
    """A random generator with the modules, attributes and tensors that NVIDIA's has."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    def linear(
        outputs: int, inputs: int, rate: float = 1, activation: str = "linear", bias: float = 0
    ) -> Persistent:
        gain = rate / np.sqrt(inputs)  # one of numpy's numbers, as in theirs
        part = Persistent(
            "FullyConnectedLayer", activation=activation, weight_gain=gain, bias_gain=rate
        )
        part.parameter("weight", normal(outputs, inputs) / rate)
        part.parameter("bias", normal(outputs) * 0.3 / rate + bias)
        return part

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64

    def convolution(inputs: int, outputs: int, resolution: int, up: int) -> Persistent:
        part = Persistent(
            "SynthesisLayer", activation="lrelu", conv_clamp=clamp, up=up, act_gain=math.sqrt(2)
        )
        part.add_module("affine", linear(inputs, latents, bias=1.0))
        part.parameter("weight", normal(outputs, inputs, 3, 3))
        part.parameter("noise_strength", 0.3 * normal())
        part.parameter("bias", 0.3 * normal(outputs))
        part.buffer("noise_const", normal(resolution, resolution))
        part.buffer("resample_filter", kernel)
        return part

    mapping = Persistent("MappingNetwork", num_layers=2, num_ws=2)
    if classes:
        mapping.add_module("embed", linear(latents, classes))
    mapping.add_module("fc0", linear(latents, latents * (2 if classes else 1), 0.01, "lrelu"))
    mapping.add_module("fc1", linear(latents, latents, 0.01, "lrelu"))
    mapping.buffer("w_avg", normal(latents))

    synthesis = Persistent("SynthesisNetwork", img_resolution=size)
    inputs, resolution = channels, 4
    while resolution <= size:
        # Another width at each resolution, as in the published channel tables.
        outputs = channels if resolution == 4 else inputs + 1
        block = Persistent(
            "SynthesisBlock", architecture=wiring, resolution=resolution, use_fp16=resolution > 8
        )
        block.buffer("resample_filter", kernel)
        if resolution == 4:
            block.parameter("const", normal(channels, 4, 4))
        else:
            block.add_module("conv0", convolution(inputs, outputs, resolution, 2))
        block.add_module("conv1", convolution(outputs, outputs, resolution, 1))
        if wiring == "skip" or resolution == size:
            rgb = Persistent("ToRGBLayer", conv_clamp=clamp, weight_gain=1 / np.sqrt(outputs))
            rgb.add_module("affine", linear(outputs, latents, bias=1.0))
            rgb.parameter("weight", normal(colors, outputs, 1, 1))
            rgb.parameter("bias", normal(colors))
            block.add_module("torgb", rgb)
        if wiring == "resnet" and resolution > 4:
            # Its clamp is None whatever that of the others is.
            skip = Persistent("Conv2dLayer", activation="linear", conv_clamp=None, up=2)
            skip.parameter("weight", normal(outputs, inputs, 1, 1))
            skip.buffer("resample_filter", kernel)
            block.add_module("skip", skip)
        synthesis.add_module(f"b{resolution}", block)
        inputs, resolution = outputs, resolution * 2
    whole = Persistent(
        "Generator", z_dim=latents, c_dim=classes, w_dim=latents, img_resolution=size
    )
    whole.add_module("synthesis", synthesis)
    whole.add_module("mapping", mapping)
    return whole


def saved(module: Persistent, path: Path = Path("network.pkl")) -> Path:
    """A pickle as NVIDIA's training writes them, with what else lies beside G_ema."""
    discriminator = Persistent("Discriminator", c_dim=0)
    content = {"G": module, "D": discriminator, "G_ema": module, "augment_pipe": None}
    path.write_bytes(
        pickle.dumps({**content, "training_set_kwargs": EasyDict(resolution=32, use_labels=False)})
    )
    return path


def reference(
    module: Persistent, z: Tensor, truncation: float = 1.0, label: int | None = None
) -> Tensor:
    """One image [3, size, size] of one latent [latents], step by step, in float64."""
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    clamps = {m.conv_clamp for m in module.modules() if hasattr(m, "conv_clamp")}
    clamp = max((each for each in clamps if each), default=math.inf)

    def second_moment_normalised(x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean() + 1e-8)

    def activated(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)

    def affine(name: str, w: Tensor) -> Tensor:
        weight = state[f"{name}.affine.weight"]
        return weight @ w / math.sqrt(len(w)) + state[f"{name}.affine.bias"]

    def convolved(x: Tensor, kernel: Tensor) -> Tensor:
        """Correlation with zero padding of half the kernel, tap by tap."""
        pad = kernel.shape[-1] // 2
        padded = nn.functional.pad(x, (pad, pad, pad, pad))
        height, width = x.shape[1:]
        total = torch.zeros(len(kernel), height, width, dtype=x.dtype)
        for dy in range(kernel.shape[2]):
            for dx in range(kernel.shape[3]):
                window = padded[:, dy : dy + height, dx : dx + width]
                total += torch.einsum("oi,ihw->ohw", kernel[:, :, dy, dx], window)
        return total

    def upsampled(x: Tensor, taps: Tensor) -> Tensor:
        """Twice the resolution: zeros between the samples, then the 4 x 4 filter with a gain of
        4.
        """
        channels, height, width = x.shape
        wide = torch.zeros(channels, 2 * height, 2 * width, dtype=x.dtype)
        wide[:, ::2, ::2] = x
        padded = nn.functional.pad(wide, (2, 1, 2, 1))
        total = torch.zeros_like(wide)
        for dy in range(4):
            for dx in range(4):
                total += (
                    4
                    * taps.flip(0, 1)[dy, dx]
                    * padded[:, dy : dy + 2 * height, dx : dx + 2 * width]
                )
        return total

    def styled(name: str, x: Tensor, w: Tensor, up: bool, gain: float = 1.0) -> Tensor:
        kernel = state[f"{name}.weight"] * affine(name, w)[None, :, None, None]
        kernel = kernel / torch.sqrt((kernel * kernel).sum((1, 2, 3), keepdim=True) + 1e-8)
        if up:
            # A transposed convolution scatters each sample by the kernel into a map of 2 h + 1; the
            # filter follows.
            channels, height, width = len(kernel), *x.shape[1:]
            wide = torch.zeros(channels, 2 * height + 1, 2 * width + 1, dtype=x.dtype)
            for dy in range(3):
                for dx in range(3):
                    taps = torch.einsum("oi,ihw->ohw", kernel[:, :, dy, dx], x)
                    wide[:, dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] += taps
            padded = nn.functional.pad(wide, (1, 1, 1, 1))
            x = torch.zeros(channels, 2 * height, 2 * width, dtype=x.dtype)
            taps = state[f"{name}.resample_filter"].flip(0, 1)
            for dy in range(4):
                for dx in range(4):
                    x += 4 * taps[dy, dx] * padded[:, dy : dy + 2 * height, dx : dx + 2 * width]
        else:
            x = convolved(x, kernel)
        if f"{name}.noise_const" in state:
            x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
        return gain * activated(x + state[f"{name}.bias"][:, None, None]).clamp(-clamp, clamp)

    w = second_moment_normalised(z.double())
    if label is not None:
        embed = state["mapping.embed.weight"]
        given = torch.zeros(embed.shape[1], dtype=torch.float64)
        given[label] = 1
        embedded = embed @ given / math.sqrt(len(given)) + state["mapping.embed.bias"]
        w = torch.cat([w, second_moment_normalised(embedded)])
    for number in range(2):
        weight = state[f"mapping.fc{number}.weight"]
        w = activated(
            weight @ w * (0.01 / math.sqrt(len(w))) + 0.01 * state[f"mapping.fc{number}.bias"]
        )
    w = state["mapping.w_avg"] + truncation * (w - state["mapping.w_avg"])

    x, image, resolution = state["synthesis.b4.const"], torch.zeros(1, 4, 4, dtype=torch.float64), 4
    while f"synthesis.b{resolution}.conv1.weight" in state:
        block = f"synthesis.b{resolution}"
        given, half = x, 1.0
        if resolution > 4:
            x = styled(f"{block}.conv0", x, w, up=True)
            image = upsampled(image, state[f"{block}.resample_filter"])
        if f"{block}.skip.weight" in state:
            half = math.sqrt(0.5)
        x = styled(f"{block}.conv1", x, w, up=False, gain=half)
        if f"{block}.skip.weight" in state:
            kernel = state[f"{block}.skip.weight"] / math.sqrt(len(given))
            around = upsampled(convolved(given, kernel), state[f"{block}.skip.resample_filter"])
            x = x + half * around
        if f"{block}.torgb.weight" not in state:
            resolution *= 2
            continue
        style = affine(f"{block}.torgb", w) / math.sqrt(x.shape[0])
        kernel = state[f"{block}.torgb.weight"] * style[None, :, None, None]
        drawn = convolved(x, kernel) + state[f"{block}.torgb.bias"][:, None, None]
        image, resolution = image + drawn.clamp(-clamp, clamp), resolution * 2
    return image


def as_picture(image: Tensor) -> Tensor:
    """Three channels: gray thrice, and what is transparent on white."""
    if image.shape[1] == 4:
        opacity = (image[:, 3:].clamp(-1, 1) + 1) / 2
        return opacity * image[:, :3] + (1 - opacity) * torch.ones(3, 1, 1)
    return torch.cat([image] * 3, 1) if image.shape[1] == 1 else image


LATENTS = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("given", "truncation", "label"),
    [
        ({}, 1.0, None),
        ({"size": 64, "channels": 3, "clamp": None}, 0.6, None),
        ({"clamp": 0.8}, 0.0, None),
        ({"classes": 5}, 0.7, 3),
        ({"size": 8}, 1.0, None),
        ({"wiring": "resnet"}, 0.7, None),
        ({"wiring": "resnet", "clamp": 0.8, "size": 16}, 1.0, None),
        ({"wiring": "orig"}, 1.0, None),
        ({"wiring": "orig", "classes": 4, "size": 8}, 0.5, 1),
        ({"colors": 1}, 1.0, None),
        ({"colors": 4, "wiring": "resnet"}, 1.0, None),
    ],
)
def test_images_are_those_of_the_description(
    given: dict[str, Any], truncation: float, label: int | None
) -> None:
    module = generator(**given)
    weights = read_weights(saved(module)).tensors
    fields = GeneratorFields(
        family="stylegan2", weights="", truncation=truncation, class_label=label
    )
    model = make_model("stylegan2", weights, fields)
    wanted = torch.stack([reference(module, z, truncation, label) for z in LATENTS])
    wanted = as_picture(wanted)
    assert (model.images(LATENTS) - wanted).abs().max() < 1e-3
    exact = make_model("stylegan2", weights, fields, precision="float64")
    assert (exact.images(LATENTS.double()) - wanted).abs().max() < 1e-6
    # Every part of the description matters: without one of them, the images are others.
    for name in weights:
        if (
            name.endswith(("conv1.resample_filter", "synthesis.b4.resample_filter"))
            or "w_avg" in name
        ):
            continue  # NVIDIA registers it everywhere and filters only where it resamples
        changed = {**weights, name: 1.5 * weights[name] + 0.1}
        if name.endswith("noise_const") or name == "synthesis.conv_clamp":
            continue
        if "wiring" in given and re.fullmatch(r"synthesis\.b\d+\.resample_filter", name):
            continue  # there, too: no image is resampled without skip connections
        other = make_model("stylegan2", changed, fields, precision="float64")
        if truncation or not name.startswith("mapping."):
            assert (other.images(LATENTS.double()) - wanted).abs().max() > 1e-5, name


def test_the_clamp_is_seen() -> None:
    tight, loose = (generator(clamp=clamp) for clamp in (0.8, 256.0))
    images = [
        StyleGAN2(read_weights(saved(module)).tensors).images(LATENTS) for module in (tight, loose)
    ]
    assert (images[0] - images[1]).abs().max() > 0.1


def test_a_checkpoint_keeps_nvidias_names(tmp_path: Path) -> None:
    module = generator(classes=3)
    checkpoint = read_weights(saved(module))
    assert set(checkpoint.tensors) == {*module.state_dict(), "synthesis.conv_clamp"}
    assert torch.equal(
        checkpoint.tensors["mapping.fc0.weight"], module.state_dict()["mapping.fc0.weight"]
    )
    shape = StyleGAN2(checkpoint.tensors, class_label=0).architecture
    assert (shape.image_size, shape.latent_size, shape.classes, shape.average) == (
        32,
        8,
        3,
        "mapping.w_avg",
    )
    assert shape.layers["layer2"].parameter == "synthesis.b4.conv1.weight"
    assert shape.layers["layer5"].parameter == "synthesis.b16.conv0.weight"
    assert shape.layers["layer8"].parameter == "synthesis.b32.conv1.weight"
    with (tmp_path / "same.safetensors").open("wb") as file:
        write_weights(file, checkpoint, "safetensors")
    assert read_weights(tmp_path / "same.safetensors").digest() == checkpoint.digest()
    assert set(load_file(tmp_path / "same.safetensors")) == set(checkpoint.tensors)
    other = read_weights(saved(generator(classes=3, clamp=255.0)))
    assert other.digest() != checkpoint.digest()


@pytest.mark.parametrize("layer", [f"layer{n}" for n in range(2, 9)])
def test_a_haloed_crop_has_the_values_of_the_whole_map(layer: str) -> None:
    model = StyleGAN2(read_weights(saved(generator(clamp=1.0))).tensors)
    reached = model.trace(layer, LATENTS[:1])
    value, shape = model.layer_value(layer, reached), model.layer(layer)
    region = Box(1, 0, 3, 2)
    key, arguments = model.crop(layer, reached, region)
    covered = region.scale_up(shape.scale)
    # A patch is applied to the checkpoint's own tensor, so the function takes that, too.
    crop = model.function(layer)(key, model.weights[shape.parameter], arguments)
    torch.testing.assert_close(
        crop, value[:, :, covered.rows(), covered.columns()], rtol=1e-5, atol=1e-5
    )


def test_without_noise_and_with_old_pickle_protocols() -> None:
    module = generator()
    for part in module.modules():
        for kind, name in (("_parameters", "noise_strength"), ("_buffers", "noise_const")):
            getattr(part, kind).pop(name, None)
    for protocol in (3, 4, 5):
        Path("old.pkl").write_bytes(pickle.dumps({"G_ema": module}, protocol=protocol))
        model = make_model("stylegan2", read_weights(Path("old.pkl")).tensors)
        wanted = torch.stack([reference(module, z) for z in LATENTS])
        assert (model.images(LATENTS) - wanted).abs().max() < 1e-3
    Path("alone.pkl").write_bytes(pickle.dumps(module))
    assert read_weights(Path("alone.pkl")).digest() == read_weights(Path("old.pkl")).digest()


class Code:
    """What a malicious pickle holds: it makes a file when it is read."""

    def __reduce__(self) -> Any:
        return (exec, ("open('ran', 'w').close()",))


def test_code_is_refused_by_name_and_never_run() -> None:
    module = generator()
    module.mapping.callback = Code()  # type: ignore[union-attr]
    with pytest.raises(FileError, match=r"builtins\.exec.*not executed"):
        read_weights(saved(module))
    for content in (
        {"G_ema": Code()},
        Code(),
        [types.SimpleNamespace],
        {"x": torch.nn.Linear(1, 1)},
    ):
        Path("evil.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(FileError, match="was not executed"):
            read_weights(Path("evil.pkl"))
    assert not Path("ran").exists()
    pickle.loads(pickle.dumps(Code()))  # the trap works
    assert Path("ran").exists()


def test_code_inside_of_a_storage_is_not_run() -> None:
    class Nested:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (pickle.dumps(Code(), protocol=2),)

    Path("evil.pkl").write_bytes(pickle.dumps({"G_ema": Nested()}))
    with pytest.raises(FileError, match="not a readable pickle"):
        read_weights(Path("evil.pkl"))
    assert not Path("ran").exists()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_tensors_lie_inside_of_their_storage() -> None:
    storage = torch.ones(4).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)

    class Outside:
        def __init__(self, *arguments: Any) -> None:
            self.arguments = arguments

        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (typed, *self.arguments, False, {})

    def read(*arguments: Any) -> object:
        from editspec_runtime.io import pickles

        return pickles.load(io.BytesIO(pickle.dumps(Outside(*arguments))))

    assert torch.equal(read(1, (3,), (1,)), torch.ones(3))  # type: ignore[arg-type]
    for arguments in ((2, (3,), (1,)), (0, (2**40,), (1,)), (-1, (1,), (1,)), (0, (2, 2), (4, 1))):
        with pytest.raises((RuntimeError, ValueError, pickle.UnpicklingError)):
            read(*arguments)


def test_numbers_of_numpy_become_plain_ones() -> None:
    from editspec_runtime.io import pickles

    def read(value: object, protocol: int) -> object:
        return pickles.load(io.BytesIO(pickle.dumps(value, protocol=protocol)))

    for kind in (
        np.float64,
        np.float32,
        np.float16,
        np.int64,
        np.uint8,
        np.bool_,
        np.dtype(">f8").type,
    ):
        for protocol in (3, 4, 5):
            number = read(kind(3), protocol)
            assert type(number) in (bool, int, float)
            assert number == kind(3)
    swapped = np.array([1.5], dtype=">f4")[0]
    assert read(swapped, 4) == 1.5
    # What is no number stays foreign.
    for value in (np.datetime64("2020-01-01"), np.complex64(1), np.str_("x"), np.void(b"12")):
        with pytest.raises(pickle.UnpicklingError, match="a number of the type"):
            read(value, 4)


def test_damage_is_named() -> None:
    whole = saved(generator()).read_bytes()
    for damaged in (
        whole[:-1],
        whole[: len(whole) // 2],
        whole[:2],
        b"\x80\x04.",
        b"\x80\x04N.",
        b"junk",
        b"",
    ):
        Path("bad.pkl").write_bytes(damaged)
        with pytest.raises(EditError, match=r"bad\.pkl"):
            read_weights(Path("bad.pkl"))
    Path("network.safetensors").write_bytes(whole)
    with pytest.raises(
        FileError, match=r"is a pickle file by its content.*\n.*Rename it to end in \.pkl"
    ):
        read_weights(Path("network.safetensors"))
    torch.save({"x": torch.ones(1)}, "x.safetensors")
    with pytest.raises(FileError, match="is a torch file by its content"):
        read_weights(Path("x.safetensors"))


def change_architecture(parts: dict[str, nn.Module]) -> None:
    parts["synthesis.b8"].architecture = "dense"  # type: ignore[assignment]


def change_rate(parts: dict[str, nn.Module]) -> None:
    parts["mapping.fc1"].weight_gain = 1.0  # type: ignore[assignment]


def change_activation(parts: dict[str, nn.Module]) -> None:
    parts["synthesis.b8.conv1"].activation = "relu"  # type: ignore[assignment]


def change_clamp(parts: dict[str, nn.Module]) -> None:
    parts["synthesis.b8.conv1"].conv_clamp = 3  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            change_architecture,
            r"synthesis\.b8\.architecture is dense, expected skip, resnet or orig",
        ),
        (change_rate, r"mapping\.fc1\.weight_gain is 1, expected 0\.0035"),
        (change_activation, r"synthesis\.b8\.conv1\.activation is relu, expected lrelu"),
        (change_clamp, r"clamped to different values: 256\.0, 3"),
    ],
)
def test_what_computes_otherwise_is_refused(change: Change, message: str) -> None:
    module = generator()
    change(dict(module.named_modules()))
    with pytest.raises(WeightsError, match=message):
        read_weights(saved(module))


def test_what_is_no_generator_is_named() -> None:
    for content, found in (({"D": None}, "found D"), ([1], "holds a list"), ({}, "found nothing")):
        Path("x.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(WeightsError, match=found):
            read_weights(Path("x.pkl"))


def test_everything_that_does_not_fit_is_named_by_nvidias_names() -> None:
    weights = read_weights(saved(generator())).tensors
    infos = {name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in weights.items()}
    for name in ("synthesis.b4.const", "mapping.fc0.weight", "synthesis.b16.torgb.bias"):
        fewer = {key: info for key, info in infos.items() if key != name}
        with pytest.raises(WeightsError, match=f"{name} is missing"):
            read_architecture("stylegan2", fewer)
    infos["synthesis.b8.conv1.affine.weight"] = TensorInfo("F32", (7, 9))
    infos["synthesis.b8.conv0.noise_strength"] = TensorInfo("F32", (1,))
    with pytest.raises(WeightsError) as error:
        read_architecture("stylegan2", infos)
    assert "synthesis.b8.conv1.affine.weight is 7 x 9, expected 7 x 8" in str(error.value)
    assert "synthesis.b8.conv0.noise_strength is 1, expected one number" in str(error.value)
    with pytest.raises(WeightsError, match="look like a StyleGAN3 generator") as error:
        read_architecture("stylegan2", {"synthesis.L0_36_512.weight": TensorInfo("F32", (1,))})
    assert "StyleGAN3 is known by name alone" in error.value.hint


def test_a_key_chooses_between_modules(tmp_path: Path) -> None:
    first, second = generator(seed=1), generator(seed=2)
    content = {"nets": {"a": first, "b": second}, "D": Persistent("Discriminator")}
    Path("two.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"2 generators.*: nets\.a, nets\.b") as error:
        read_weights(Path("two.pkl"))
    assert "model.key: nets.a" in error.value.hint
    found = read_weights(Path("two.pkl"), Choice("nets.b"))
    assert torch.equal(found["synthesis.b4.const"], second.state_dict()["synthesis.b4.const"])
    assert found.container.place("x") == ("nets", "b", "x")
    with pytest.raises(WeightsError, match="no text before"):
        read_weights(Path("two.pkl"), Choice("nets.b", prefix="module."))
    with pytest.raises(WeightsError, match=r"holds no generator: .* found D Discriminator"):
        read_weights(Path("two.pkl"), Choice("D"))
    # The average is what training is for; the generator itself is there, too.
    training = {"G": first, "G_ema": second, "D": Persistent("Discriminator")}
    Path("training.pkl").write_bytes(pickle.dumps(training))
    assert read_weights(Path("training.pkl")).container.key == ("G_ema",)
    raw = read_weights(Path("training.pkl"), Choice("G"))
    assert torch.equal(raw["synthesis.b4.const"], first.state_dict()["synthesis.b4.const"])


@pytest.mark.parametrize(("taps", "configuration"), [(3, "T"), (1, "R")])
def test_stylegan3_is_recognised_by_name(taps: int, configuration: str) -> None:
    synthesis = Persistent("SynthesisNetwork", img_resolution=256)
    synthesis.add_module("input", Persistent("SynthesisInput"))
    synthesis.input.buffer("freqs", torch.ones(4, 2))  # type: ignore[union-attr]
    layer = Persistent("SynthesisLayer", conv_kernel=taps)
    layer.parameter("weight", torch.ones(4, 4, taps, taps))
    synthesis.add_module("L0_36_4", layer)
    whole = Persistent("Generator", img_resolution=256)
    whole.add_module("synthesis", synthesis)
    with pytest.raises(WeightsError) as error:
        read_weights(saved(whole))
    assert f"StyleGAN3 of configuration {configuration}" in error.value.message
    assert "StyleGAN2 configurations" in error.value.hint


def test_what_differs_from_the_usual_is_said() -> None:
    def architecture(**given: Any) -> Any:
        return StyleGAN2(read_weights(saved(generator(**given))).tensors).architecture

    assert architecture().facts().keys() == {
        "image_size",
        "latent_size",
        "classes",
        "truncation",
    }
    assert architecture().notes == ()
    assert architecture(colors=1).facts()["image_channels"] == 1
    assert architecture(colors=4, wiring="orig").facts()["architecture"] == "orig"
    assert architecture(wiring="resnet").facts()["architecture"] == "resnet"
    (note,) = architecture(clamp=None).notes
    assert "no clamp of the activations is assumed" in note


@pytest.mark.parametrize("colors", [2, 5])
def test_other_numbers_of_channels_are_refused(colors: int) -> None:
    weights = read_weights(saved(generator(colors=colors))).tensors
    with pytest.raises(WeightsError, match=f"its images have {colors} channels, expected 1"):
        StyleGAN2(weights)


def test_images_that_are_not_square_are_refused() -> None:
    weights = read_weights(saved(generator())).tensors
    weights["synthesis.b4.const"] = torch.ones(6, 4, 8)
    with pytest.raises(WeightsError, match=r"6 x 4 x 8: these images are not square, and square"):
        StyleGAN2(weights)


@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_least_squares_sees_the_function_of_a_layer_that_is_added(layer: str) -> None:
    given = generator(wiring="resnet", clamp=1.5)
    weights = {n: t.double() for n, t in read_weights(saved(given)).tensors.items()}
    model = StyleGAN2(weights)
    trace, function, kernel = (
        model.trace(layer, LATENTS.double()),
        model.function(layer),
        model.weight(layer),
    )
    directions = torch.linalg.qr(torch.randn(kernel.shape[2], 2).double())[0].T
    channelwise = function.channelwise(trace.key, kernel, directions, trace.arguments)
    for scale in (0.0, 0.5):
        factors = scale * torch.ones(kernel.shape[1], 2, 3, 3).double()
        changed = kernel + torch.einsum("osyx,si->oiyx", factors, directions)[None]
        wanted = function(trace.key, changed, trace.arguments)
        found = channelwise(factors.flatten(1)).view_as(wanted)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
        assert torch.equal(wanted, model.layer_value(layer, trace)) is (scale == 0.0)


@pytest.mark.parametrize("wiring", ["resnet", "orig"])
@pytest.mark.parametrize("layer", [f"layer{n}" for n in range(2, 9)])
def test_the_way_on_from_every_layer_gives_the_images(layer: str, wiring: str) -> None:
    model = StyleGAN2(read_weights(saved(generator(wiring=wiring, clamp=1.0))).tensors)
    wanted = model.images(LATENTS)
    trace = model.trace(layer, LATENTS)
    value = model.layer_value(layer, trace)
    assert torch.equal(model.forward_from(layer, value, trace), wanted)
    assert torch.allclose(model.key_maps(layer)(LATENTS), trace.key, rtol=1e-5, atol=1e-5)
    # What is kept of a trace is enough to go on from it.
    kept = model.trace_from_tensors(trace.key, model.carried_tensors(trace))
    for later in list(model.architecture.layers)[
        list(model.architecture.layers).index(layer) + 1 :
    ]:
        found = model.forward_between(layer, value, kept, later).key
        assert torch.equal(found, model.trace(later, LATENTS).key)
    # All that a key depends on is named, and nothing else.
    upstream = model.upstream(layer)
    for name in model.named:
        if name.endswith(".kernel") or name == "latent_avg":
            continue
        changed = dict(model.weights)
        own = nvidia_name(name)
        changed[own] = 1.5 * changed[own] + 0.1
        moved = not torch.equal(model.with_weights(changed).trace(layer, LATENTS).key, trace.key)
        assert moved == (name in upstream), name
