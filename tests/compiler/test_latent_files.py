"""Latents in the files that projectors and encoders write."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from editspec_compiler import load
from editspec_compiler.modalities.image.latent_tensors import open_tensors
from editspec_compiler.modalities.image.latents import read_latent
from editspec_compiler.modalities.image.schema import LatentFile
from editspec_runtime.errors import FileError
from editspec_runtime.modalities.image.architecture import ImageArchitecture
from tests.commands import run, said

COUNT, SIZE = 4, 6
SIZES = ImageArchitecture("stylegan2", {}, 8, 5, styles=COUNT, style_size=SIZE)
ONE = torch.arange(SIZE, dtype=torch.float32) / 4
EACH = torch.arange(COUNT * SIZE, dtype=torch.float32).reshape(COUNT, SIZE) / 4
Z = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.25])


class Stranger:
    """What a file must not hold: it makes the file `trap` where it is read."""

    def __reduce__(self) -> Any:
        return (open, ("trap", "w"))


def read(folder: Path, sizes: ImageArchitecture | None = SIZES, **fields: Any) -> NDArray[Any]:
    return read_latent(LatentFile(**fields), folder, sizes, open_tensors)


def write(folder: Path, name: str, content: Any) -> None:
    """Write a file in the format that its name says."""
    path = folder / name
    if name.endswith(".npz"):
        np.savez(path, **{key: value.numpy() for key, value in content.items()})
    elif name.endswith(".npy"):
        np.save(path, content.numpy())
    elif name.endswith(".safetensors"):
        save_file(content, path)
    elif name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not name.startswith("old"))


PROJECTED = {"img": torch.zeros(3, 2, 2), "latent": EACH, "noise": [torch.zeros(1, 2, 2)]}

PER_LAYER: dict[str, tuple[Any, dict[str, Any]]] = {
    "projected_w.npz": ({"w": EACH[None]}, {}),
    "several.npz": ({"w": EACH, "noise": ONE}, {"key": "w"}),
    "latents.pt": (torch.stack([EACH + 1, EACH]), {"index": 1}),
    "one.pt": (EACH, {}),
    "old.pt": (EACH, {}),
    "list.pt": ([EACH + 1, EACH], {"key": "1"}),
    "parameter.pt": ({"w": torch.nn.Parameter(EACH)}, {}),
    "projector.pt": ({"face.png": PROJECTED}, {"key": "latent"}),
    "whole-name.pt": ({"face.png": PROJECTED}, {"key": "face.png/latent"}),
    "named-otherwise.bin": (EACH, {}),
    "arrays.pt": ({"w": EACH.numpy()}, {"key": "w"}),
    "arrays.pkl": ([EACH.numpy()], {}),
    "w.npy": (EACH.double(), {}),
    "w.safetensors": ({"w": EACH[None, None]}, {}),
}


@pytest.mark.parametrize("name", PER_LAYER)
def test_files_of_projectors_and_encoders(tmp_path: Path, name: str) -> None:
    content, fields = PER_LAYER[name]
    write(tmp_path, name, content)
    assert np.array_equal(read(tmp_path, file=name, space="w", **fields), EACH.numpy())


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE), (1, 1, SIZE)])
def test_one_w_is_that_of_every_layer(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write(tmp_path, "w.npy", ONE.reshape(shape))
    found = read(tmp_path, file="w.npy", space="w")
    assert np.array_equal(found, ONE.expand(COUNT, SIZE).numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_numbers_of_every_width(tmp_path: Path, dtype: torch.dtype) -> None:
    exact = Z.to(dtype)
    for name, content in (
        ("z.safetensors", {"z": exact}),
        ("z.pt", exact),
        ("z.npz", {"z": exact} if dtype != torch.bfloat16 else {"z": Z}),
    ):
        write(tmp_path, name, content)
        assert np.array_equal(read(tmp_path, file=name), Z.numpy())


def test_a_row_of_several(tmp_path: Path) -> None:
    write(tmp_path, "z.npy", torch.stack([Z, Z + 1, Z + 2]))
    assert np.array_equal(read(tmp_path, file="z.npy", index=2), (Z + 2).numpy())
    write(tmp_path, "w.pt", torch.stack([ONE, ONE + 1]))
    second = read(tmp_path, file="w.pt", index=1, space="w")
    assert np.array_equal(second, (ONE + 1).expand(COUNT, SIZE).numpy())
    write(tmp_path, "alone.npy", Z)
    assert np.array_equal(read(tmp_path, file="alone.npy", index=0), Z.numpy())


REFUSED: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "z-of-layers.npy": (EACH, {}, "4 x 6 numbers", "space: w"),
    "several-z.npy": (torch.stack([Z, Z]), {}, "2 x 5 numbers", "the index"),
    "w-by-name.npz": ({"w": Z}, {}, "by the name of w", "space: w"),
    "several-w.pt": (torch.stack([EACH, EACH]), {"space": "w"}, "2 x 4 x 6", "index .* 0 to 1"),
    "other-model.pt": (torch.ones(18, SIZE), {"space": "w"}, "18 x 6", "of this size alone"),
    "other-size.npy": (torch.ones(COUNT, 9), {"space": "w"}, "4 x 9 numbers", "for this model"),
    "no-row.npy": (torch.stack([Z, Z]), {"index": 2}, "holds 2 latents", "0 to 1"),
    "no-key.npz": ({"a": Z, "b": Z}, {}, "2 tensors: a, b", "the key"),
    "wrong-key.npz": ({"a": Z}, {"key": "b"}, "holds no b", "It holds a"),
    "no-name.pt": (Z, {"key": "z"}, "no name", "key out"),
    "whole.npz": ({"z": torch.arange(5)}, {}, "int64 values", "float32"),
    "whole.pt": (torch.arange(5), {}, "int64 values", "float32"),
    "nothing.pt": ({"a": 1}, {}, "no numbers", "numpy.save"),
    "code.pkl": ({"z": Stranger()}, {}, "not executed", "latent alone"),
    "code.pt": ({"z": Stranger()}, {}, "not executed", "latent alone"),
    "nan.pt": (Z * float("nan"), {}, "not", "NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_latent_of_the_model(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, fields, message, hint = REFUSED[name]
    write(tmp_path, name, content)
    with pytest.raises(FileError, match=message) as error:
        read(tmp_path, file=name, **fields)
    assert re.search(hint, error.value.hint)
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of git-lfs, which stands for the file",
        ),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"0.1 0.2 0.3\n", "a text"),
        (b"[0.1, 0.2]", "a JSON text"),
        (b"", "an empty file"),
    ],
)
def test_a_file_of_another_kind_is_named_for_what_it_is(
    tmp_path: Path, data: bytes, what: str
) -> None:
    (tmp_path / "latent.npz").write_bytes(data)
    with pytest.raises(FileError, match=f"latent.npz is {what}, and a latent lies in") as error:
        read(tmp_path, file="latent.npz")
    assert error.value.hint


def test_a_family_without_w_says_so(tmp_path: Path) -> None:
    write(tmp_path, "w.npy", EACH)
    plain = ImageArchitecture("proggan", {}, 8, 5)
    with pytest.raises(FileError, match="family proggan has no w"):
        read(tmp_path, plain, file="w.npy", space="w")


@pytest.fixture
def spec(tmp_path: Path, tiny_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tiny_spec(tmp_path)


def with_latent(path: Path, latent: Any) -> str:
    content = json.loads(path.read_text())
    content["edits"][0]["source"]["latent"] = latent
    path.write_text(json.dumps(content))
    return path.name


def test_a_file_of_torch_is_validated_without_torch(spec: Path) -> None:
    torch.save(torch.ones(8), "z.pt")
    name = with_latent(spec, {"file": "z.pt"})
    code = "import sys, editspec_compiler as c; c.load(sys.argv[1]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, name]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    # Its content is looked into when it is read.
    torch.save(torch.ones(7), "z.pt")
    load(name)
    result = run("build", name, "-o", "out")
    assert result.exit_code == 2
    assert "edits[0].source.latent: a latent of this model has 8 numbers" in result.stderr


def test_the_file_is_an_input_of_the_edit(spec: Path) -> None:
    np.savez("w.npz", w=np.ones((1, 6, 8), dtype=np.float32))
    name = with_latent(spec, {"file": "w.npz", "space": "w"})
    said("build", name, "-o", "out")
    assert said("validate", name)["lock"] == []
    assert [edit["status"] for edit in said("plan", name, "-o", "out")["edits"]] == ["up to date"]
    np.savez("w.npz", w=np.full((1, 6, 8), 2, dtype=np.float32))
    (change,) = said("validate", name)["lock"]
    assert "w.npz" in change
    with_latent(spec, {"file": "w.npz", "space": "w", "index": 0})
    assert run("build", name, "-o", "out", "--frozen").exit_code == 1


@pytest.mark.parametrize(
    ("latent", "hint"),
    [("8", "take the quotes off"), ("z.npy", "{file: z.npy}"), (8.0, "write 8"), (True, "")],
)
def test_what_is_nearly_a_latent(spec: Path, latent: Any, hint: str) -> None:
    result = run("validate", with_latent(spec, latent))
    assert result.exit_code == 2
    assert hint in result.stderr
