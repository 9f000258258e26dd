"""The way back: edited weights in the container that the base has, or that a name asks for."""

from __future__ import annotations

import argparse
import copy
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from editspec_runtime.families.open import read_weights
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch
from tests.cases import tiny_stylegan2
from tests.commands import run, said


def names_here() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


PARAMETER = "convs.1.conv.weight"
LAYERS = {PARAMETER: "layer4", "conv1.conv.weight": "layer2"}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return tiny_stylegan2(size=16)


def patch_on(path: str, *parameters: str) -> tuple[str, dict[str, Tensor]]:
    """A patch of parameters of the weights at a path, and these parameters afterwards."""
    base = read_weights(Path(path))
    random = torch.Generator().manual_seed(0)
    deltas = {name: torch.randn(base[name].shape, generator=random).float() for name in parameters}
    after = apply_stack(base, [Patch({}, {}, {}, deltas)])
    axes = {5: "1 o i y x", 4: "o i y x", 2: "o i"}
    layouts = {name: axes[base[name].ndim] for name in parameters}
    metadata = {
        "name": "edit",
        "family": "stylegan2",
        "rank": None,
        "solver": {"method": "layer"},
        "edit": "0" * 64,
        "base": base.digest(),
        "parent": base.digest(),
        "result": after.digest(),
    }
    layers = [LAYERS[name] for name in parameters]
    metadata |= {"layer": layers[0]} if len(layers) == 1 else {"layers": layers}
    Path("patch.safetensors").write_bytes(make_patch({}, {}, layouts, metadata, deltas).to_bytes())
    return "patch.safetensors", {name: after[name] for name in parameters}


def training(weights: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint of rosinality's training with all kinds of things that one holds."""
    generator = OrderedDict((name, tensor.clone()) for name, tensor in weights.items())
    discriminator = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(discriminator.parameters())
    discriminator(torch.ones(3)).sum().backward()
    optimiser.step()
    flat = torch.arange(12.0)
    return {
        "g": OrderedDict((name, tensor.clone()) for name, tensor in weights.items()),
        "d": discriminator.state_dict(),
        "g_ema": generator,
        "g_optim": optimiser.state_dict(),
        "args": argparse.Namespace(iter=800000, path="data", augment=True),
        "latent_avg": torch.ones(8),
        "ada_aug_p": 0.3,
        "parameter": nn.Parameter(torch.ones(3).bfloat16()),
        "views": [flat[2:8].view(2, 3), flat.view(3, 4).t()],
        "history": ({"kimg": 1, 2: None}, [1.5, True, b"bytes", 10**20]),
    }


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """The places in which two contents of files differ."""
    if type(before) is not type(after):
        return [place]
    if isinstance(before, Tensor):
        same = before.dtype == after.dtype and before.stride() == after.stride()
        same &= before.requires_grad == after.requires_grad
        same &= before.storage_offset() == after.storage_offset()
        return [] if same and torch.equal(before, after) else [place]
    if isinstance(before, argparse.Namespace):
        return differences(vars(before), vars(after), place)
    found = []
    if isinstance(before, dict):
        if list(before) != list(after) or vars_of(before) != vars_of(after):
            return [place]
        for key in before:
            found += differences(before[key], after[key], f"{place}/{key}")
        return found
    if isinstance(before, list | tuple):
        if len(before) != len(after):
            return [place]
        for number, pair in enumerate(zip(before, after, strict=True)):
            found += differences(*pair, f"{place}/{number}")
        return found
    return [] if before == after else [place]


def vars_of(thing: object) -> dict[str, Any]:
    return getattr(thing, "__dict__", {})


def load(path: str) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".tar", ".ckpt", ".bin", ""])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_training_checkpoint_stays_one(
    weights: dict[str, Tensor], ending: str, new: bool
) -> None:
    torch.save(training(weights), "base.pt", _use_new_zipfile_serialization=new)
    before = Path("base.pt").read_bytes()
    patch, after = patch_on("base.pt", PARAMETER)
    out = f"edited{ending}"
    applied = said("apply", "--model", "base.pt", patch, "-o", out)
    assert differences(load("base.pt"), load(out)) == [f"/g_ema/{PARAMETER}"]
    assert torch.equal(load(out)["g_ema"][PARAMETER], after[PARAMETER])
    views = load(out)["views"]
    assert views[0].untyped_storage().data_ptr() == views[1].untyped_storage().data_ptr()
    assert load(out)["g_ema"].keys() == load("base.pt")["g_ema"].keys()
    # The product reads it, as the weights that the patch names.
    assert said("inspect", out)["digest"] == applied["digest"] == read_weights(Path(out)).digest()
    assert said("inspect", out)["edited"]["patches"] == [said("inspect", patch)["content"]]
    assert said("audit", "--base", "base.pt", "--edited", out, patch)["explained"]
    assert zipfile.is_zipfile(out) is new
    assert Path("base.pt").read_bytes() == before
    # Once more is the same, and an edited file is no base.
    data = Path(out).read_bytes()
    said("apply", "--model", "base.pt", patch, "-o", out)
    assert Path(out).read_bytes() == data
    result = run("apply", "--model", out, patch, "-o", "twice.pt")
    assert (result.exit_code, "edited already" in result.stderr) == (1, True)


def test_all_but_the_numbers_of_an_archive_stays(weights: dict[str, Tensor]) -> None:
    torch.save(training(weights), "base.pt")
    patch, _ = patch_on("base.pt", PARAMETER)
    said("apply", "--model", "base.pt", patch, "-o", "edited.pt")
    base, edited = zipfile.ZipFile("base.pt"), zipfile.ZipFile("edited.pt")
    assert edited.namelist() == base.namelist()
    changed = [name for name in base.namelist() if base.read(name) != edited.read(name)]
    assert len(changed) == 1
    assert "/data/" in changed[0]
    offsets = {name: edited.getinfo(name).header_offset for name in edited.namelist()}
    for name in edited.namelist():
        info = edited.getinfo(name)
        begin = offsets[name] + 30 + len(name) + len(info.extra)
        assert begin % 64 == 0


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("shared", ["mapping", "tensors", "storages"])
@pytest.mark.parametrize("first", ["g", "g_ema"])
def test_whoever_shares_numbers_with_the_generator_keeps_them(
    weights: dict[str, Tensor], shared: str, first: str, new: bool
) -> None:
    other: dict[str, Tensor] = weights
    if shared == "tensors":
        other = dict(weights)
    elif shared == "storages":
        other = {name: tensor.detach() for name, tensor in weights.items()}
    second = "g" if first == "g_ema" else "g_ema"
    content = {first: weights, second: other, "latent_avg": torch.ones(8), "again": other}
    torch.save(content, "base.pt", _use_new_zipfile_serialization=new)
    patch, after = patch_on("base.pt", PARAMETER, "conv1.conv.weight")
    said("apply", "--model", "base.pt", patch, "-o", "edited.pt")
    edited = load("edited.pt")
    wanted = [f"/g_ema/{name}" for name in load("base.pt")["g_ema"] if name in after]
    assert differences(load("base.pt"), edited) == wanted
    # What was shared and stays as it was is shared still.
    name = "conv1.activate.bias"
    places = {edited[key][name].data_ptr() for key in ("g", "g_ema", "again")}
    assert len(places) == 1
    assert len({id(edited[key]) for key in ("g", "g_ema", "again")}) > 1


def test_views_of_one_storage_are_changed_alone() -> None:
    from editspec_runtime.io.rewriting import rewrite

    flat = torch.arange(24.0)
    content = {"a": flat[2:8].view(2, 3).t(), "b": flat[8:12], "all": flat}
    content["bare"] = torch.arange(24.0)[4:10].view(3, 2).t()
    for new in (True, False):
        torch.save(content, "base.pt", _use_new_zipfile_serialization=new)
        with Path("edited.pt").open("w+b") as file:
            changes = {("a",): torch.full((3, 2), 7.0), ("bare",): torch.full((2, 3), 8.0)}
            rewrite(Path("base.pt"), file, changes, "")
        edited = torch.load("edited.pt", weights_only=True)
        assert differences(content, edited) == ["/a", "/bare"]
        assert torch.equal(edited["a"], torch.full((3, 2), 7.0))
        assert torch.equal(edited["bare"], torch.full((2, 3), 8.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_numbers_keep_their_kind(weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    placed = {name: nn.Parameter(tensor.to(dtype)) for name, tensor in weights.items()}
    torch.save({"state_dict": placed, "epoch": 3}, "base.pth")
    patch, after = patch_on("base.pth", PARAMETER)
    said("apply", "--model", "base.pth", patch, "-o", "edited.pth")
    assert differences(load("base.pth"), load("edited.pth")) == [f"/state_dict/{PARAMETER}"]
    assert torch.equal(load("edited.pth")["state_dict"][PARAMETER], after[PARAMETER])
    assert isinstance(load("edited.pth")["state_dict"][PARAMETER], nn.Parameter)


def test_pickles_of_other_protocols_are_kept() -> None:
    from editspec_runtime.io.rewriting import rewrite

    shared = torch.ones(2, 3)
    content = {"one": {"x": shared}, "two": {"x": shared}, "names": ["a", "é", ("b", 2)] * 300}
    for protocol in (2, 3, 4, 5):
        torch.save(content, "base.pt", pickle_protocol=protocol)
        with Path("edited.pt").open("w+b") as file:
            rewrite(Path("base.pt"), file, {("two", "x"): torch.zeros(2, 3)}, "")
        edited = torch.load("edited.pt", weights_only=False)
        assert differences(content, edited) == ["/two/x"]


@pytest.mark.parametrize("source", ["training.pt", "training.safetensors", "sharded"])
def test_the_generator_alone(weights: dict[str, Tensor], source: str) -> None:
    torch.save(training(weights), "training.pt")
    named = {f"g_ema.{name}": tensor for name, tensor in weights.items()}
    named |= {"latent_avg": torch.ones(8), "d.x": torch.ones(3)}
    save_file(named, "training.safetensors")
    Path("sharded").mkdir()
    save_shards(named, Path("sharded"))
    patch, after = patch_on(source, PARAMETER)
    apply = ("apply", "--model", source, patch, "--only-generator")
    digest = said(*apply, "-o", "alone.pt")["digest"]
    plain = torch.load("alone.pt", weights_only=True)
    assert set(plain) == {"g_ema", "latent_avg"}
    assert set(plain["g_ema"]) == set(weights)
    assert torch.equal(plain["g_ema"][PARAMETER], after[PARAMETER])
    assert said(*apply, "-o", "alone.safetensors")["digest"] == digest
    tensors = load_file("alone.safetensors")
    assert set(tensors) == {*weights, "latent_avg"}
    assert torch.equal(tensors[PARAMETER], after[PARAMETER])
    for name in ("alone.pt", "alone.safetensors"):
        assert read_weights(Path(name)).digest() == digest
    # Without the option, names and what lies beside stay.
    said(*apply[:-1], "-o", "whole.safetensors")
    kept = {*weights, "latent_avg"} if source == "training.pt" else set(named)
    assert set(load_file("whole.safetensors")) == kept


def save_shards(named: dict[str, Tensor], folder: Path) -> None:
    import json

    files = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(sorted(named))}
    for file in set(files.values()):
        part = {name: named[name] for name in files if files[name] == file}
        save_file(part, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_stay_shards_or_become_what_the_name_asks_for(weights: dict[str, Tensor]) -> None:
    Path("sharded").mkdir()
    save_shards(weights, Path("sharded"))
    patch, after = patch_on("sharded", PARAMETER)
    digests = set()
    for out in ("edited", "edited-1.5", "one.safetensors", "one.pt"):
        digests.add(said("apply", "--model", "sharded", patch, "-o", out)["digest"])
        digests.add(read_weights(Path(out)).digest())
    assert len(digests) == 1
    files = {path.name for path in Path("sharded").iterdir()}
    assert {path.name for path in Path("edited").iterdir()} == files
    assert torch.equal(load_file("one.safetensors")[PARAMETER], after[PARAMETER])
    with safe_open("one.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert torch.equal(load("one.pt")[PARAMETER], after[PARAMETER])


REFUSED = {
    "base.pt": ["e.pkl", "e.onnx", "e.h5", "e.pt2", "e.json", "e.safetensor", "e.npz"],
    "base.safetensors": ["e.pkl", "e.pt2", "e.zip"],
    "sharded": ["e.pkl", "e.onnx", "e.safetensors.index.json"],
}


@pytest.mark.parametrize("base", REFUSED)
def test_an_ending_that_cannot_be_written_is_refused_before_the_work(
    weights: dict[str, Tensor], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(weights, "base.pt")
    save_file(weights, "base.safetensors")
    Path("sharded").mkdir()
    save_shards(weights, Path("sharded"))
    patch, _ = patch_on(base, PARAMETER)
    names = names_here()
    for command in ("editspec.commands.apply.read_stack", "editspec.commands.convert.read_weights"):
        monkeypatch.setattr(command, lambda *_: pytest.fail("the work began"))
    for out in REFUSED[base]:
        for command in (["apply", "--model", base, patch, "-o", out], ["convert", base, out]):
            result = run(*command)
            assert (result.exit_code, result.stdout) == (2, ""), (command, result.stderr)
            assert out in result.stderr
            assert ".safetensors" in result.stderr
    assert names_here() == names


def test_the_ending_of_the_base_asks_for_its_container(weights: dict[str, Tensor]) -> None:
    torch.save(weights, "base.model")
    torch.save(weights, "base.pkl")
    for base, out in (("base.model", "edited.model"), ("base.pkl", "edited.pkl")):
        patch, _ = patch_on(base, PARAMETER)
        said("apply", "--model", base, patch, "-o", out)
        assert zipfile.is_zipfile(out)
        assert differences(load(base), load(out)) == [f"/{PARAMETER}"]
    assert run("apply", "--model", "base.model", patch, "-o", "edited.thing").exit_code == 2


def test_convert_keeps_metadata_and_makes_a_real_pt(weights: dict[str, Tensor]) -> None:
    named = {f"g_ema.{name}": tensor for name, tensor in weights.items()}
    save_file(named, "a.safetensors", {"modelspec.title": "Town", "format": "pt"})
    digest = said("convert", "a.safetensors", "b.safetensors")["digest"]
    said("convert", "b.safetensors", "back.pt")
    said("convert", "back.pt", "again.pt")
    said("convert", "again.pt", "c.safetensors")
    for name in ("b", "c"):
        with safe_open(f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
            assert set(file.keys()) == (set(named) if name == "b" else set(weights))
        assert (metadata.pop("format"), metadata.pop("modelspec.title")) == ("pt", "Town")
        assert list(metadata) == ["editspec"]
    content = torch.load("back.pt", weights_only=True)
    assert list(content) == ["g_ema"]
    assert differences(dict(weights), {name: content["g_ema"][name] for name in weights}) == []
    for name in ("b.safetensors", "back.pt", "again.pt", "c.safetensors"):
        assert said("inspect", name)["digest"] == digest
    # An edited file says so in every container.
    patch, _ = patch_on("a.safetensors", PARAMETER)
    said("apply", "--model", "a.safetensors", patch, "-o", "edited.pt")
    said("convert", "edited.pt", "edited.safetensors")
    found = [said("inspect", f"edited.{ending}")["edited"] for ending in ("pt", "safetensors")]
    assert found[0] == found[1]
    assert found[0]["patches"] == [said("inspect", patch)["content"]]


@pytest.mark.parametrize("ending", ["pt", "safetensors", "pth"])
def test_files_of_others_stay(weights: dict[str, Tensor], ending: str) -> None:
    torch.save(training(weights), "base.pt")
    patch, _ = patch_on("base.pt", PARAMETER)
    torch.save(weights, f"theirs.{ending}")
    Path(f"text.{ending}").write_text("precious")
    before = {name: Path(name).read_bytes() for name in names_here()}
    for out in (f"theirs.{ending}", f"text.{ending}", "base.pt"):
        for command in (
            ["apply", "--model", "base.pt", patch, "-o", out],
            ["convert", "base.pt", out],
        ):
            result = run(*command)
            assert (result.exit_code, "is in the way" in result.stderr) == (1, True)
    assert {name: Path(name).read_bytes() for name in names_here()} == before


@pytest.mark.parametrize("out", ["edited.pt", "edited.safetensors"])
def test_a_disk_that_is_full_leaves_nothing(
    weights: dict[str, Tensor], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(training(weights), "base.pt")
    patch, _ = patch_on("base.pt", PARAMETER)
    names = names_here()
    monkeypatch.setattr(os, "fsync", full_disk)
    for command in (["apply", "--model", "base.pt", patch, "-o", out], ["convert", "base.pt", out]):
        result = run(*command)
        assert (result.exit_code, "Cannot write" in result.stderr) == (1, True)
    assert names_here() == names


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_is_read_again_is_compared(
    weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(weights, "base.pt")
    patch, _ = patch_on("base.pt", PARAMETER)

    def write_the_base(path: Path, target: io.BufferedRandom, *_: object) -> None:
        target.write(path.read_bytes())

    monkeypatch.setattr("editspec.engine.weights_output.rewrite", write_the_base)
    result = run("apply", "--model", "base.pt", patch, "-o", "edited.pt")
    assert (result.exit_code, "would not be read" in result.stderr) == (1, True)
    assert not Path("edited.pt").exists()


def test_a_tensor_that_repeats_its_numbers_is_refused(weights: dict[str, Tensor]) -> None:
    weights[PARAMETER] = weights[PARAMETER][:, :1].expand_as(weights[PARAMETER])
    torch.save(weights, "base.pt")
    patch, after = patch_on("base.pt", PARAMETER)
    result = run("apply", "--model", "base.pt", patch, "-o", "edited.pt")
    assert (result.exit_code, ".safetensors" in result.stderr) == (1, True)
    assert not Path("edited.pt").exists()
    said("apply", "--model", "base.pt", patch, "-o", "edited.safetensors")
    assert torch.equal(load_file("edited.safetensors")[PARAMETER], after[PARAMETER])


HOSTILE = {
    "nothing": b"\x80\x02.",
    "popped": b"\x80\x02K\x010.",
    "not remembered": b"\x80\x02h\x05.",
    "no mark": b"\x80\x02u.",
    "left over": b"\x80\x02K\x01K\x02.",
    "itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "endless": b"\x80\x02X\xff\xff\xff\x7fa",
    "deep": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "code": pickle.dumps(os.getcwd),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strange_pickle_is_refused_in_words(name: str) -> None:
    from editspec_runtime.errors import FileError
    from editspec_runtime.io.rewriting import rewrite

    with zipfile.ZipFile("base.pt", "w") as archive:
        archive.writestr("base/data.pkl", HOSTILE[name])
        archive.writestr("base/data/0", bytes(16))
    with pytest.raises(FileError, match="cannot be written again"), Path("e.pt").open("wb") as file:
        rewrite(Path("base.pt"), file, {("a", "b"): torch.ones(4)}, "")


def test_names_are_data_not_places(weights: dict[str, Tensor]) -> None:
    odd = {**weights, "../../x": torch.ones(2), "a/b": torch.ones(1), "é.weight": torch.ones(1)}
    torch.save(odd, "base.pt")
    patch, _ = patch_on("base.pt", PARAMETER)
    said("apply", "--model", "base.pt", patch, "-o", "edited.pt")
    assert differences(load("base.pt"), load("edited.pt")) == [f"/{PARAMETER}"]
    said("convert", "base.pt", "plain.pt")
    assert differences(load("base.pt"), load("plain.pt")) == []


def test_the_rewritten_pickle_gives_every_value_again() -> None:
    from editspec_runtime.io.pickle_graph import read_graph, write_graph

    inner: list[Any] = [1, 2.5, None, True, "é", b"x" * 300, 10**30, -5]
    itself: dict[str, Any] = {"list": inner, "again": inner, "set": {1, 2}, "tuple": (1, (2, ()))}
    itself["self"] = itself
    itself["long"] = [[str(number), inner] for number in range(2000)]
    itself["ordered"] = OrderedDict(a=inner, b=argparse.Namespace(c=inner))
    for protocol in range(2, 6):
        data = io.BytesIO(pickle.dumps(itself, protocol))
        out = io.BytesIO()
        write_graph(read_graph(data).root, data, out)
        found = pickle.loads(out.getvalue())
        assert found["self"] is found
        assert found["again"] is found["list"] is found["ordered"]["b"].c
        assert found["long"] == itself["long"]
        assert (found["set"], found["tuple"], found["list"]) == ({1, 2}, (1, (2, ())), inner)
        # Texts may become other objects or more of the same, and so the bytes: only in value.
        assert copy.deepcopy(found["ordered"]["b"]) == itself["ordered"]["b"]


def nested(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Contents in which the generator lies under keys and behind prefixes."""
    other = {"conv.weight": torch.ones(2, 2)}
    return {
        "models.G": {"models": {"D": other, "G": weights}, "step": 3},
        "module.": {"netG": {f"module.{n}": t for n, t in weights.items()}, "netD": other},
        "list": {"nets": [other, weights]},
        "generator.": {f"generator.{n}": t for n, t in weights.items()} | {"d": torch.ones(2)},
    }


@pytest.mark.parametrize("kind", ["models.G", "module.", "list", "generator."])
@pytest.mark.parametrize("ending", [".pt", ".pkl"])
def test_a_generator_goes_back_to_where_it_lay(
    weights: dict[str, Tensor], kind: str, ending: str
) -> None:
    content = nested(weights)[kind]
    if ending == ".pt":
        torch.save(content, "base.pt")
    else:
        Path("base.pkl").write_bytes(pickle.dumps(content))
    patch, after = patch_on(f"base{ending}", PARAMETER)
    digest = said("apply", "--model", f"base{ending}", patch, "-o", f"e{ending}")["digest"]
    edited = load("e.pt") if ending == ".pt" else pickle.loads(Path("e.pkl").read_bytes())
    (place,) = differences(content, edited)
    assert place.endswith(PARAMETER)
    for out in ("plain.pt", "plain.safetensors"):
        assert said("apply", "--model", f"base{ending}", patch, "-o", out)["digest"] == digest
        alone = ("--only-generator", "-o", f"alone-{out}")
        assert said("apply", "--model", f"base{ending}", patch, *alone)["digest"] == digest
        assert read_weights(Path(f"alone-{out}")).digest() == digest
    assert set(load_file("alone-plain.safetensors")) == set(weights)
    assert torch.equal(load_file("alone-plain.safetensors")[PARAMETER], after[PARAMETER])
