"""The family torch: any network of modules, from code that is allowed or from a file of
torch.export.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from editspec_runtime.errors import FileError, WeightsError
from editspec_runtime.families.torch_module.exported import read_exported
from editspec_runtime.families.torch_module.functions import kernel_of, stored_weight
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.recording import PointError
from editspec_runtime.families.torch_module.source import Points, Source, run_factory
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.low_rank import delta
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.modalities.image.maps import Box
from tests.commands import run, said

CODE = """
import torch
from torch import nn
from torch.nn import functional as F

class Pictures(nn.Module):
    latent_shape = (5, 1, 1)

    def __init__(self):
        super().__init__()
        self.begin = nn.ConvTranspose2d(5, 6, 4, 1, 0)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(True)
        self.up = nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False)
        self.mix = nn.Conv2d(4, 4, 3, 1, 1)
        self.last = nn.Conv2d(4, 3, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, z):
        x = 1.1 * self.up(self.act(self.norm(self.begin(z))))
        return torch.tanh(self.last(F.leaky_relu(self.mix(x), 0.2)))

class Rectified(nn.Module):
    latent_shape = (5, 2, 2)

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(5, 6, 4, 2, 1)
        self.leak = nn.LeakyReLU(0.2, True)
        self.drop = nn.Dropout2d()
        self.mix = nn.Conv2d(6, 8, 3, 1, 1)
        self.cut = nn.ReLU()
        self.squash = nn.Tanh()
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, z):
        return self.last(self.squash(self.cut(self.mix(self.drop(self.leak(self.up(z)))))))

class Waves(nn.Module):
    latent_size = 4

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(4, 24)
        self.fold = nn.Unflatten(1, (3, 8))
        self.along = nn.Conv1d(3, 5, 3, 1, 1)
        self.bend = nn.ELU()
        self.out = nn.Conv1d(5, 1, 3, 1, 1)

    def forward(self, z):
        return self.out(self.bend(self.along(self.fold(self.wide(z)))))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("nets", None)


def network(name: str, seed: int = 0) -> nn.Module:
    """A network of the code above with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, _ = run_factory(f"nets:{name}", Path(), allow_code=True)
        for buffer, value in (("running_mean", 0.3), ("running_var", 1.7)):
            for part in module.modules():
                if hasattr(part, buffer):
                    getattr(part, buffer).fill_(value)
    return module


def generator(name: str, points: dict[str, Points] | None = None) -> TorchModule:
    module = network(name)
    weights = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    return TorchModule(weights, Source(module, "code", points or {}))


LATENTS = {"Pictures": 5, "Rectified": 20, "Waves": 4}
SIZES = {"Pictures": 8, "Rectified": 4, "Waves": 8}
DECLARED = {
    "Pictures": {"normed": Points("begin", "act", "begin.weight")},
    "Rectified": {
        "leaky": Points("up", "drop", "up.weight"),
        "rectified": Points("mix", "cut", "mix.weight"),
        "squashed": Points("mix", "squash", "mix.weight"),
    },
    "Waves": {
        "bent": Points("along", "bend", "along.weight"),
        "folded": Points("wide", "fold", "wide.weight"),
    },
}


def latents(name: str, count: int = 2) -> Tensor:
    return torch.randn(count, LATENTS[name], generator=torch.Generator().manual_seed(3))


def every_layer() -> list[tuple[str, str]]:
    names = {
        "Pictures": ["begin", "up", "mix", "last", "normed"],
        "Rectified": ["leaky", "rectified", "squashed"],
        "Waves": ["wide", "along", "out", "bent"],
    }
    return [(name, layer) for name, layers in names.items() for layer in layers]


@pytest.mark.parametrize(("name", "layer"), every_layer())
def test_prefix_value_and_rest_make_the_image(name: str, layer: str) -> None:
    model, z = generator(name, DECLARED[name]), latents(name)
    plain = network(name)(z.reshape(-1, *model.latent_shape))
    whole = model.images(z)
    torch.testing.assert_close(whole if plain.ndim == 4 else whole[:, :1, 0], plain)
    reached = model.trace(layer, z)
    value = model.layer_value(layer, reached)
    shape = model.layer(layer)
    assert (reached.key.shape[1], reached.key.shape[-1]) == (shape.in_features, shape.key_size)
    assert value.shape[-1] == shape.value_size
    torch.testing.assert_close(model.forward_from(layer, value, reached), whole)
    assert not torch.equal(model.forward_from(layer, 0 * value, reached), whole)
    # The region of a crop is that of the whole map.
    size = shape.key_size
    region = Box(0, size // 2, 1 if value.shape[-2] == 1 else size, size)
    key, arguments = model.crop(layer, reached, region)
    covered = region.scale_up(shape.scale) if value.shape[-2] > 1 else Box(0, size // 2, 1, size)
    crop = model.function(layer)(key, model.weights[shape.parameter], arguments)
    assert torch.equal(crop, value[:, :, covered.rows(), covered.columns()])


@pytest.mark.parametrize(("name", "layer"), every_layer())
def test_a_weight_has_one_form(name: str, layer: str) -> None:
    model = generator(name, DECLARED[name])
    shape, kernel = model.layer(layer), model.weight(layer)
    assert kernel.shape[:3] == (1, shape.out_features, shape.in_features)
    edited = model.module.get_submodule(model.points[layer].chain[0].name)
    assert torch.equal(stored_weight(edited, kernel), model.weights[shape.parameter])
    assert torch.equal(kernel_of(edited, stored_weight(edited, kernel)), kernel)
    # The convolution alone is what the module does without its bias.
    reached = model.trace(layer, latents(name))
    bias = edited.bias if edited.bias is not None else torch.zeros(shape.out_features)
    alone = model.function(layer).convolution(reached.key, kernel[0]) + bias.reshape(-1, 1, 1)
    own = edited(model.points[layer].key.features(reached.key))
    torch.testing.assert_close(alone.flatten(2), own.reshape(*own.shape[:2], -1))


@pytest.mark.parametrize(("name", "layer"), every_layer())
def test_the_second_moment_is_a_mean_over_positions(name: str, layer: str, folder: Path) -> None:
    model, stream = generator(name, DECLARED[name]), LatentStream(2, LATENTS[name])
    found = second_moment(model, layer, LatentSample(stream, 20), EDITSPEC, Cache(folder)).matrix
    keys = model.trace(layer, stream.items(range(20))).key.movedim(1, -1).flatten(0, -2).double()
    torch.testing.assert_close(found, keys.T @ keys / len(keys), rtol=1e-5, atol=1e-6)


def test_what_lies_upstream(folder: Path) -> None:
    model = generator("Pictures")
    assert "begin.weight" in model.upstream("up")
    assert "norm.running_mean" in model.upstream("up")
    assert not {"up.weight", "mix.weight", "last.bias"} & set(model.upstream("up"))
    assert not {"begin.weight", "norm.weight"} & set(model.upstream("begin"))


def test_an_image_seen_at_a_later_layer() -> None:
    model, z = generator("Pictures"), latents("Pictures")
    reached = model.trace("up", z)
    value = model.layer_value("up", reached)
    later = model.trace("last", z)
    fresh = model.trace_from_tensors(reached.key, model.carried_tensors(reached))
    torch.testing.assert_close(model.forward_between("up", value, fresh, "last").key, later.key)
    assert not torch.equal(model.forward_between("up", 0 * value, reached, "last").key, later.key)


WRONG_POINTS = [
    (Points("begn", "begin", "begin.weight"), "key", "the network has no module begn"),
    (
        Points("begin", "begin", "norm.weight"),
        "parameter",
        "norm.weight is not the weight of a layer",
    ),
    (Points("unused", "unused", "unused.weight"), "key", "unused is never reached"),
    (Points("up", "act", "up.weight"), "value", "act lies before up"),
    (
        Points("up", "mix", "up.weight"),
        "value",
        "more is computed than modules, one after the other",
    ),
    (Points("begin", "mix", "mix.weight"), "key", "does not take what begin takes"),
]


@pytest.mark.parametrize(("points", "field", "message"), WRONG_POINTS)
def test_points_that_make_no_layer(points: Points, field: str, message: str) -> None:
    with pytest.raises(PointError, match=message) as error:
        generator("Pictures", {"mine": points})
    assert (error.value.layer, error.value.field) == ("mine", field)


def source(
    module: nn.Module, shape: tuple[int, ...] | None = (4,)
) -> tuple[dict[str, Tensor], Source]:
    return dict(module.state_dict()), Source(module.eval(), "code", {}, shape)


class Noisy(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z + torch.rand(4)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(3, 3), "cannot take a latent of the shape"),
        (Noisy(), "another image each time"),
        (
            nn.Sequential(nn.Linear(4, 24), nn.Unflatten(1, (2, 3, 4))),
            "gives .2, 3, 4. for one latent",
        ),
    ],
)
def test_networks_that_are_no_generators(module: nn.Module, message: str) -> None:
    with torch.random.fork_rng(devices=[]), pytest.raises(WeightsError, match=message):
        TorchModule(*source(module))


def test_weights_of_another_network_are_listed() -> None:
    module = nn.Linear(4, 4)
    weights, made = source(module)
    weights = {"weight": torch.ones(5, 4), "extra": torch.ones(1)}
    with pytest.raises(WeightsError) as error:
        TorchModule(weights, made)
    for part in (
        "bias is missing (expected 4)",
        "extra is left over",
        "weight is 5 x 4, expected 4 x 4",
    ):
        assert part in str(error.value)
    with pytest.raises(WeightsError, match="Nothing says what a latent"):
        TorchModule(*source(module, None))


def spec_of(name: str, layer: str, **fields: Any) -> dict[str, Any]:
    size = SIZES[name]
    place = {"latent": 1, "mask": {"box": [0, 0, size // 2, size // 2]}}
    solver = {"method": "direct", "steps": 60}
    edit = {
        "name": "e",
        "layer": layer,
        "source": place,
        "target": {**place, "latent": 2},
        "solver": solver,
        **fields,
    }
    model: dict[str, Any] = {
        "family": "torch",
        "module": f"nets:{name}",
        "weights": "weights.safetensors",
    }
    if points := DECLARED[name].get(layer):
        model["layers"] = {layer: {"key": points.key, "value": points.value}}
    return {"version": 1, "model": model, "statistics": {"samples": 64}, "edits": [edit]}


def built(spec: dict[str, Any], *arguments: str) -> dict[str, Any]:
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    return said("build", "spec.yaml", "-o", "out", *arguments)["edits"][0]


@pytest.mark.parametrize(("name", "layer"), every_layer())
def test_every_kind_of_layer_is_edited(name: str, layer: str) -> None:
    module = network(name)
    save_file(module.state_dict(), "weights.safetensors")
    edit = built(spec_of(name, layer), "--allow-code")
    run("apply", "--model", "weights.safetensors", edit["patch"], "-o", "edited.safetensors")
    edited = load_file("edited.safetensors")
    changed = [
        key for key, tensor in module.state_dict().items() if not torch.equal(tensor, edited[key])
    ]
    assert changed == [
        DECLARED[name][layer].parameter if layer in DECLARED[name] else f"{layer}.weight"
    ]
    # The loss is that of the network with the edited weights: the patch was put in the right axes.
    assert edit["loss"] == pytest.approx(loss_with(name, "edited.safetensors"), rel=1e-5)
    assert edit["loss"] < 0.99 * loss_with(name, "weights.safetensors")


@pytest.mark.parametrize(("name", "layer"), every_layer())
def test_a_module_alone_or_before_what_is_known_is_solved_by_least_squares(
    name: str, layer: str
) -> None:
    model = generator(name, DECLARED[name])
    reached = model.trace(layer, latents(name))
    size, shape = model.layer(layer).key_size, model.layer(layer)
    flat = reached.key.shape[-2] == 1
    key, arguments = model.crop(layer, reached, Box(0, size // 2, 1 if flat else size, size))
    function, weight = model.function(layer), model.weight(layer)
    random = torch.Generator().manual_seed(4)
    d = torch.linalg.qr(torch.randn(shape.in_features, 2, generator=random))[0].T.contiguous()
    channelwise = function.channelwise(key, weight, d, arguments)
    if layer in ("along", "bent", "squashed"):
        # An ELU has no such form; the convolution alone has.
        assert channelwise is None
        if layer == "along":
            alone = model.function("along/weight")
            assert alone.channelwise(key, weight, d, arguments) is not None
        return
    assert channelwise is not None
    a = torch.randn(1, shape.out_features, 2, *weight.shape[-2:], generator=random)
    wanted = function(key, weight + delta(a, d), arguments).flatten(2)
    torch.testing.assert_close(channelwise(a[0].flatten(1)), wanted, rtol=1e-4, atol=1e-5)
    assert (channelwise(-a[0].flatten(1)) - wanted).abs().max() > 1e-2
    # From a spec to the patch.
    save_file(network(name).state_dict(), "weights.safetensors")
    edit = built(spec_of(name, layer, solver="least-squares"), "--allow-code")
    assert edit["loss"] < 0.99 * loss_with(name, "weights.safetensors")


def test_what_follows_a_module_is_refused_with_the_method_to_use() -> None:
    save_file(network("Rectified").state_dict(), "weights.safetensors")
    spec = spec_of("Rectified", "squashed", solver="least-squares")
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    result = run("build", "spec.yaml", "-o", "out", "--allow-code")
    assert result.exit_code == 2
    assert (
        "edits[0].solver: squashed is not known to act on each output channel alone"
        in result.stderr
    )
    assert "projected-gradient" in result.stderr
    # The way out: what comes before the squash, by the names of layers of the same weight.
    assert "layer: mix, whose value is cut's" in result.stderr
    # Before C is computed.
    assert "statistics of" not in result.stderr
    Path("spec.yaml").write_text(
        yaml.safe_dump(spec_of("Rectified", "squashed", solver={"method": "direct", "steps": 5}))
    )
    assert "statistics of" in run("build", "spec.yaml", "-o", "out", "--allow-code").stderr


def loss_with(name: str, weights: str) -> float:
    """The loss of the rule that was built, of the network with the weights in a file."""
    (path,) = Path("out/rules").iterdir()
    (rule,) = read_rule(path).rules
    model = TorchModule(load_file(weights), Source(network(name), "code", DECLARED[name]))
    value = model.function(rule.layer)(rule.key, model.weight(rule.layer), rule.arguments)
    return (rule.value - value).abs().mean().item()


@pytest.mark.parametrize("layer", ["begin", "mix"])
def test_a_layer_without_directions_keeps_its_axes(layer: str) -> None:
    save_file(network("Pictures").state_dict(), "weights.safetensors")
    spec = spec_of("Pictures", layer, solver={"method": "layer", "steps": 60})
    edit = built(spec, "--allow-code")
    run("apply", "--model", "weights.safetensors", edit["patch"], "-o", "edited.safetensors")
    assert edit["loss"] == pytest.approx(loss_with("Pictures", "edited.safetensors"), rel=1e-5)
    assert edit["loss"] < 0.7 * loss_with("Pictures", "weights.safetensors")


def test_code_is_imported_only_where_it_is_allowed(folder: Path) -> None:
    save_file(network("Pictures").state_dict(), "weights.safetensors")
    sys.modules.pop("nets", None)
    Path("nets.py").write_text("open('ran', 'w').close()\n" + CODE)
    Path("spec.yaml").write_text(yaml.safe_dump(spec_of("Pictures", "up")))
    assert run("validate", "spec.yaml").exit_code == 0
    assert run("inspect", "spec.yaml").exit_code == 0
    result = run("build", "spec.yaml", "-o", "out")
    assert (result.exit_code, "give --allow-code if you trust it" in result.stderr) == (1, True)
    assert not Path("ran").exists()
    assert not Path("out").exists()
    assert "begin.weight" in run("inspect", "spec.yaml", "--allow-code").stdout
    assert Path("ran").exists()
    # What one command allowed, the next does not know.
    assert run("compile", "spec.yaml", "-o", "out").exit_code == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"module": "nets"}, 'the text "nets" is not package.module:name'),
        ({"module": None}, "model: the family torch needs a module"),
        ({"truncation": 0.5}, "the family torch takes no truncation"),
        ({"family": "stylegan2"}, "module is for the family torch"),
        ({"weights": "weights.pt2"}, "a file of torch.export holds its network"),
        ({"layers": {"mine": {"value": "act"}}}, "model.layers.mine: neither key nor parameter"),
        ({"layers": {"mine": {"kee": "act"}}}, "unknown key kee"),
        ({"layers": {"mine": {"key": "unused"}}}, "model.layers.mine.key: unused is never reached"),
        (
            {"layers": {"mine": {"key": "up", "value": "act"}}},
            "model.layers.mine.value: act lies before up",
        ),
        ({"latent_shape": [0]}, "must be at least 1"),
    ],
)
def test_what_a_spec_says_wrong(model: dict[str, Any], message: str) -> None:
    save_file(network("Pictures").state_dict(), "weights.safetensors")
    Path("weights.pt2").touch()
    spec = spec_of("Pictures", "up")
    spec["model"] = {
        key: value for key, value in (spec["model"] | model).items() if value is not None
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    result = run("build", "spec.yaml", "-o", "out", "--allow-code")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_a_factory_that_fails_is_named() -> None:
    Path("nets.py").write_text(
        "def broken():\n    raise ValueError('no luck')\ndef number():\n    return 1\n"
    )
    for name, message in (("broken", "ValueError: no luck"), ("none", "AttributeError")):
        with pytest.raises(FileError, match=message):
            run_factory(f"nets:{name}", Path(), allow_code=True)
    with pytest.raises(WeightsError, match=r"makes a int, expected a torch\.nn\.Module"):
        run_factory("nets:number", Path(), allow_code=True)


def exported(name: str, batch: int | None = None) -> Path:
    """A file of torch.export; for any batch, or for one."""
    module = network(name)
    shape = {"Pictures": (5, 1, 1), "Rectified": (5, 2, 2), "Waves": (4,)}[name]
    shapes = ({0: torch.export.Dim("n")},) if batch is None else None
    program = torch.export.export(module, (torch.zeros(batch or 2, *shape),), dynamic_shapes=shapes)
    torch.export.save(program, f"{name}.pt2")
    return Path(f"{name}.pt2")


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
)
def test_rectifiers_of_an_exported_network_are_known() -> None:
    spec = spec_of("Rectified", "rectified", solver="least-squares")
    spec["model"] |= {"weights": str(exported("Rectified"))}
    del spec["model"]["module"]
    without = built(spec)
    save_file(network("Rectified").state_dict(), "weights.safetensors")
    with_code = built(spec_of("Rectified", "rectified", solver="least-squares"), "--allow-code")
    assert without["loss"] == pytest.approx(with_code["loss"], rel=1e-4)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("name", ["Pictures", "Waves"])
def test_an_exported_network_is_the_network(name: str, batch: int | None) -> None:
    module, _ = read_exported(exported(name, batch))
    weights = dict(module.state_dict())
    model: Generator = TorchModule(weights, Source(module, "graph"))
    z, own = latents(name, 3), generator(name)
    torch.testing.assert_close(model.images(z), own.images(z))
    assert set(model.architecture.layers) == set(own.architecture.layers)
    for layer in model.architecture.layers:
        torch.testing.assert_close(model.trace(layer, z).key, own.trace(layer, z).key)
        assert model.layer(layer) == own.layer(layer)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
)
def test_an_exported_network_needs_no_code() -> None:
    spec = spec_of("Pictures", "up")
    spec["model"] = {"family": "torch", "weights": str(exported("Pictures"))}
    without = built(spec)
    save_file(network("Pictures").state_dict(), "weights.safetensors")
    with_code = built(spec_of("Pictures", "up"), "--allow-code")
    assert without["loss"] == pytest.approx(with_code["loss"], rel=1e-4)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
)
def test_an_exported_file_is_looked_through_before_it_is_read() -> None:
    path = exported("Pictures")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    graph = next(name for name in entries if name.endswith("model.json"))
    weights = next(name for name in entries if name.endswith("model_weights_config.json"))

    class Code:
        def __reduce__(self) -> Any:
            return (exec, ("open('ran', 'w').close()",))

    buffer = io.BytesIO()
    torch.save(Code(), buffer)
    folder = graph.partition("/")[0]
    for changed in (
        {graph: entries[graph].replace(b"torch.ops.aten.tanh.default", b"torch.os.system")},
        {
            graph: entries[graph].replace(
                b"torch.ops.aten.tanh.default", b"torch.ops.aten.from_file.default"
            )
        },
        {graph: entries[graph].replace(b"positive=True", b"positive=exec(chr(1))")},
        {weights: entries[weights].replace(b'"use_pickle": false', b'"use_pickle": true')},
        {f"{folder}/data/sample_inputs/model.pt": buffer.getvalue()},
        {f"{folder}/data/constants/custom_obj_0": b"x"},
        {f"{folder}/data/aotinductor/model/model.so": b"x"},
    ):
        assert any(entries.get(name) != data for name, data in changed.items())
        with zipfile.ZipFile("bad.pt2", "w") as archive:
            for name, data in (entries | changed).items():
                archive.writestr(name, data)
        with pytest.raises(FileError, match="It was not executed"):
            read_exported(Path("bad.pt2"))
    assert not Path("ran").exists()
    whole = path.read_bytes()
    for damaged in (b"", b"junk", whole[: len(whole) // 2]):
        Path("bad.pt2").write_bytes(damaged)
        with pytest.raises(FileError, match=r"bad\.pt2"):
            read_exported(Path("bad.pt2"))
