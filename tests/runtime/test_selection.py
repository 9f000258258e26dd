"""The generator is found wherever a training keeps it, and nothing else is taken for it."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from editspec_runtime.errors import EditError, FileError, WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.selection import Choice, choose_by_fields
from editspec_runtime.families.torch_module.fields import ModuleFields
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.modalities.image.fields import GeneratorFields
from tests.cases import GOLDEN

Wrap = Callable[[dict[str, Tensor]], Any]


def progressive() -> dict[str, Tensor]:
    return load_file(GOLDEN / "pg_state_dict.safetensors")


def other() -> dict[str, Tensor]:
    """A discriminator: tensors that are no generator."""
    return {"main.0.weight": torch.ones(4, 3, 4, 4), "main.2.weight": torch.ones(1, 4)}


def optimiser() -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(3))
    made = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(3)
    made.step()
    return made.state_dict()


def behind(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


PLACES: dict[str, tuple[Wrap, tuple[str, ...], str]] = {
    "netG_state_dict": (
        lambda g: {"netG_state_dict": g, "netD_state_dict": other(), "epoch": 3},
        ("netG_state_dict",),
        "",
    ),
    "generator": (lambda g: {"discriminator": other(), "generator": g}, ("generator",), ""),
    "model_state_dict": (
        lambda g: {"model_state_dict": g, "optimizer_state_dict": optimiser(), "loss": 0.5},
        ("model_state_dict",),
        "",
    ),
    "state_dict": (lambda g: {"state_dict": g, "optimizer": optimiser()}, ("state_dict",), ""),
    "params_ema": (lambda g: {"params_ema": g}, ("params_ema",), ""),
    "an unheard-of key": (lambda g: {"my net!": g}, ("my net!",), ""),
    "nested": (lambda g: {"models": {"G": g, "D": other()}}, ("models", "G"), ""),
    "in a list": (lambda g: {"nets": [g, other()]}, ("nets", "0"), ""),
    "module.": (lambda g: behind("module.", g), (), "module."),
    "_orig_mod.": (lambda g: {"G": behind("_orig_mod.", g)}, ("G",), "_orig_mod."),
    "both wrappers": (
        lambda g: behind("_orig_mod.module.", g),
        (),
        "_orig_mod.module.",
    ),
    "generator. beside discriminator.": (
        lambda g: {"state_dict": behind("generator.", g) | behind("discriminator.", other())},
        ("state_dict",),
        "generator.",
    ),
    "beside loose tensors": (
        lambda g: {"netG": g, "fixed_noise": torch.ones(2, 8), "seen": torch.ones(1)},
        ("netG",),
        "",
    ),
    "bare, beside others": (lambda g: {**g, "optimizer": optimiser(), "step": 1}, (), ""),
    "beside numbers of numpy": (
        lambda g: {
            "G": g,
            "fid": np.float64(12.5),
            "losses": np.arange(6.0).reshape(2, 3),
            "random": np.random.RandomState(0).get_state(),
        },
        ("G",),
        "",
    ),
    "as parameters": (
        lambda g: {"G": {name: nn.Parameter(tensor) for name, tensor in g.items()}},
        ("G",),
        "",
    ),
}


ENDINGS = ("old.pt", "pth.tar", "ckpt", "pkl")
"""Those of files that are read as ``pt`` or ``pickled.pt`` are."""


@pytest.mark.parametrize(
    ("family", "name", "ending"),
    [
        *itertools.product(["stylegan2"], PLACES, ["pt", "pickled.pt"]),
        *itertools.product(["stylegan2"], ["nested", "both wrappers"], ENDINGS),
        *itertools.product(["proggan"], PLACES, ["pt"]),
    ],
)
def test_the_sole_state_dict_that_fits_is_taken(
    tiny: dict[str, Tensor], tmp_path: Path, family: str, name: str, ending: str
) -> None:
    generator = tiny if family == "stylegan2" else progressive()
    wrap, key, prefix = PLACES[name]
    path = tmp_path / f"x.{ending}"
    if ending in ("pkl", "pickled.pt"):
        path.write_bytes(pickle.dumps(wrap(generator)))
    else:
        torch.save(wrap(generator), path, _use_new_zipfile_serialization=ending != "old.pt")
    fields = GeneratorFields(family=family, weights=path.name)
    for choice in (None, choose_by_fields(fields)):
        found = read_weights(path, choice)
        assert (found.container.key, found.container.prefix) == (key, prefix)
        assert found.keys() == generator.keys()
        assert found.digest() == tensors_digest(generator)
        assert found.container.place("x") == (*key, f"{prefix}x")


@pytest.mark.parametrize("prefix", ["module.", "generator.", "G.", "a.b."])
def test_prefixes_in_safetensors(tiny: dict[str, Tensor], tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file(behind(prefix, tiny) | behind("discriminator.", other()), path)
    found = read_weights(path)
    assert found.container.prefix == prefix
    assert found.digest() == tensors_digest(tiny)
    assert found.container.others.keys() == behind("discriminator.", other()).keys()


def test_several_that_fit_are_listed_and_one_is_chosen(
    tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    average = {name: 2 * tensor for name, tensor in tiny.items()}
    path = tmp_path / "x.pt"
    torch.save({"params": tiny, "params_ema": average, "d": other()}, path)
    with pytest.raises(WeightsError, match="several state dicts") as error:
        read_weights(path)
    for part in ("key params:", "key params_ema:", f"{len(tiny)} tensors", "fits stylegan2"):
        assert part in error.value.message
    assert "key d" not in error.value.message
    assert "model.key: params" in error.value.hint
    assert read_weights(path, Choice("params_ema")).digest() == tensors_digest(average)
    assert read_weights(path, Choice("params")).digest() == tensors_digest(tiny)
    # A patch knows its base, and a spec may pin it.
    for wanted in (tiny, average):
        digest = tensors_digest(wanted)
        assert read_weights(path, Choice(digest=digest)).digest() == digest
    with pytest.raises(WeightsError, match=r"no tensors at model\.key: ema;[^;]*params_ema"):
        read_weights(path, Choice("ema"))


def test_prefixes_that_both_fit(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    average = {name: 2 * tensor for name, tensor in tiny.items()}
    save_file(behind("net.", tiny) | behind("ema.", average), path)
    with pytest.raises(WeightsError, match=r"prefix ema\..*\n.*prefix net\.") as error:
        read_weights(path)
    assert "model.prefix: ema." in error.value.hint
    assert read_weights(path, Choice(prefix="net.")).digest() == tensors_digest(tiny)
    with pytest.raises(WeightsError, match=r"no tensors at model\.prefix: g\."):
        read_weights(path, Choice(prefix="g."))


def test_the_usual_keys_come_first(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    twice = {name: 2 * tensor for name, tensor in tiny.items()}
    path = tmp_path / "x.pt"
    torch.save({"g": twice, "g_ema": tiny, "latent_avg": torch.ones(8)}, path)
    found = read_weights(path)
    assert found.digest() == tensors_digest({**tiny, "latent_avg": torch.ones(8)})
    assert found.container.place("latent_avg") == ("latent_avg",)
    assert found.container.place("input.input") == ("g_ema", "input.input")
    chosen = read_weights(path, Choice("g"))
    assert chosen.digest() == tensors_digest({**twice, "latent_avg": torch.ones(8)})
    torch.save({"state_dict": tiny, "teacher": twice}, path)
    assert read_weights(path).container.key == ("state_dict",)


def test_several_of_which_none_fits_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": other(), "b": other()}, path)
    with pytest.raises(WeightsError, match="several state dicts") as error:
        read_weights(path)
    assert "fits no family that is told by its tensors" in error.value.message
    # A single one is taken, for the family to say what does not fit.
    torch.save({"a": other(), "optimizer": optimiser()}, path)
    assert read_weights(path).keys() == other().keys()


CODE = """
import torch
from torch import nn
class Generator(nn.Module):
    latent_size = 5
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.ConvTranspose2d(5, 4, 4, 1, 0), nn.ReLU(), nn.Conv2d(4, 3, 1))
    def forward(self, z):
        return self.main(z.reshape(len(z), 5, 1, 1))
"""


def module_state() -> dict[str, Tensor]:
    network = nn.Sequential(nn.ConvTranspose2d(5, 4, 4, 1, 0), nn.ReLU(), nn.Conv2d(4, 3, 1))
    return behind("main.", dict(network.state_dict()))


@pytest.mark.parametrize("name", PLACES)
def test_a_network_of_ones_own_knows_its_tensors(tmp_path: Path, name: str) -> None:
    (tmp_path / f"network_{len(name)}.py").write_text(CODE)
    wrap, key, prefix = PLACES[name]
    state, path = module_state(), tmp_path / "x.pt"
    torch.save(wrap(state), path)
    fields = ModuleFields(family="torch", weights="x.pt", module=f"network_{len(name)}:Generator")
    found = read_weights(path, choose_by_fields(fields, Origin(path, tmp_path, allow_code=True)))
    assert (found.container.key, found.container.prefix) == (key, prefix)
    assert found.digest() == tensors_digest(state)


def test_code_that_may_not_run_is_asked_for_only_where_it_decides(tmp_path: Path) -> None:
    (tmp_path / "unused.py").write_text("raise SystemExit")
    state, path = module_state(), tmp_path / "x.pt"
    fields = ModuleFields(family="torch", weights="x.pt", module="unused:Generator")
    choice = choose_by_fields(fields, Origin(path, tmp_path))
    for content in (state, {"state_dict": state}, {"G": behind("module.", state)}):
        torch.save(content, path)
        assert read_weights(path, choice).digest() == tensors_digest(state)
    torch.save({"netG": state, "netD": other()}, path)
    with pytest.raises(FileError, match="--allow-code") as error:
        read_weights(path, choice)
    assert "unused:Generator" in error.value.message
    named = choose_by_fields(fields.model_copy(update={"key": "netG"}), Origin(path, tmp_path))
    assert read_weights(path, named).digest() == tensors_digest(state)


def test_arrays_of_numpy_are_tensors(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in tiny.items()}
    for protocol in range(2, 6):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"G": arrays}, protocol=protocol))
        assert read_weights(tmp_path / "x.pkl").digest() == tensors_digest(tiny)
    torch.save({"G": arrays}, tmp_path / "x.pt")
    assert read_weights(tmp_path / "x.pt").digest() == tensors_digest(tiny)
    laid = {name: np.asfortranarray(array) for name, array in arrays.items()}
    swapped = {name: array.astype(">f4") for name, array in laid.items()}
    torch.save({"G": swapped}, tmp_path / "x.pt")
    assert read_weights(tmp_path / "x.pt").digest() == tensors_digest(tiny)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "f4")]),
        np.datetime64("2020-01-01"),
        np.complex64(1),
    ],
)
def test_other_things_of_numpy_are_not_read(
    tiny: dict[str, Tensor], tmp_path: Path, value: object
) -> None:
    torch.save({"G": tiny, "x": value}, tmp_path / "x.pt")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"G": tiny, "x": value}))
    for name in ("x.pt", "x.pkl"):
        with pytest.raises(EditError):
            read_weights(tmp_path / name)


def test_networks_of_tensorflow_are_told_the_way(tmp_path: Path) -> None:
    for name in ("dnnlib.tflib.network\nNetwork", "tfutil\nNetwork"):
        (tmp_path / "x.pkl").write_bytes(b"\x80\x02c" + name.encode() + b"\n)\x81}b.")
        with pytest.raises(FileError, match=r"network of TensorFlow") as error:
            read_weights(tmp_path / "x.pkl")
        assert "legacy.py" in error.value.hint
