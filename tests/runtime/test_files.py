from __future__ import annotations

import os
import pickle
import stat
import time
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from editspec_runtime.errors import EditError, FileError, WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.builtins import BUILTINS
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import (
    canonical_json,
    detect_container,
    read_header,
    read_tensors,
    remove_abandoned,
    safetensors_bytes,
    write,
)
from editspec_runtime.io.outputs import run_folder
from editspec_runtime.io.places import weights_path
from editspec_runtime.io.weights import Weights
from editspec_runtime.io.weights_files import write_weights


class Code:
    """What a malicious pickle holds: it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_tensors_are_read_to_places_that_do_not_follow_from_the_file(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3), "b": torch.ones(5, 7)}
    by_library = set()
    for length in range(0, 80, 4):
        path = tmp_path / "some.safetensors"
        save_file(tensors, path, {"said": "x" * length})
        read = read_tensors(path)
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)
        assert not any(tensor.data_ptr() % 64 for tensor in read.values())
        by_library |= {tensor.data_ptr() % 64 for tensor in load_file(path).values()}
    assert len(by_library) > 1


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(FileError, match="is a directory"):
        write(tmp_path / "new", b"")
    with pytest.raises(FileError, match="Cannot write"):
        write(path / "below", b"")
    assert path.read_bytes() == b"two"


def test_only_abandoned_parts_are_swept(tmp_path: Path) -> None:
    import os

    old, new, kept = tmp_path / ".a.x.part", tmp_path / ".b.y.part", tmp_path / "c.part"
    for path in (old, new, kept):
        path.touch()
    os.utime(old, (0, 0))
    remove_abandoned(tmp_path)
    assert not old.exists()
    assert new.exists()
    assert kept.exists()


def test_headers_are_read_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2, 3), "y": torch.ones(4, dtype=torch.bfloat16)}, path, {"k": "v"})
    header = read_header(path)
    assert header.tensors["x"].shape == (2, 3)
    assert header.tensors["y"].dtype == "BF16"
    assert header.metadata == {"k": "v"}
    whole = path.read_bytes()
    for damaged in (b"", b"not a tensor file", whole[:-1], whole[:20], b"\xff" * 64):
        path.write_bytes(damaged)
        for read in (read_header, read_tensors):
            with pytest.raises(FileError, match="is not a whole safetensors file"):
                read(path)
    for missing, message in ((tmp_path, "is a directory"), (tmp_path / "none", "does not exist")):
        with pytest.raises(FileError, match=message):
            read_header(missing)


PIECES = [b"0", b"1", b"-", b".5", b",", b'"', b"[", b"]", b"{", b"}", b"null", b"F32", b" ", b"4"]


def mutate_header(whole: bytes, random: Random) -> bytes:
    """Change some bytes of the header of a safetensors file, and its length with them."""
    length = int.from_bytes(whole[:8], "little")
    head, body = bytearray(whole[8 : 8 + length]), whole[8 + length :]
    for _ in range(random.randint(1, 2)):
        place, piece = random.randrange(len(head)), random.choice(PIECES)
        end = place + random.choice((0, 1, len(piece)))
        head[place:end] = random.choice((piece, b""))
    return len(head).to_bytes(8, "little") + bytes(head) + body


def read_by_library(path: Path) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The tensors and metadata as the library reads them; None where it refuses the file."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {}
            for name in file.keys():  # noqa: SIM118 - not a mapping
                entry = file.get_slice(name)
                tensors[name] = (entry.get_dtype(), tuple(entry.get_shape()))
            return tensors, dict(file.metadata() or {})
    except SafetensorError:
        return None


def test_headers_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(0, 4, dtype=torch.int8), "s": torch.ones(())}
    whole, path, random = save(tensors, {"k": "v"}), tmp_path / "a.safetensors", Random(1)
    both = refused = 0
    for _ in range(4000):
        path.write_bytes(mutate_header(whole, random))
        known = read_by_library(path)
        try:
            header = read_header(path)
        except FileError:
            refused += 1
            continue
        if b"-0" in path.read_bytes():  # which is a floating point number to the library
            continue
        # Nothing that the library refuses is read, and what both read is the same.
        found = {name: (each.dtype, each.shape) for name, each in header.tensors.items()}
        assert (found, header.metadata) == known
        both += 1
    assert both > 100
    assert refused > 1000


def test_metadata_have_one_key_and_one_form() -> None:
    first = safetensors_bytes({"x": torch.ones(1)}, {"b": 1, "a": [1.5, None, "é"]})
    assert first == safetensors_bytes({"x": torch.ones(1)}, {"a": [1.5, None, "é"], "b": 1})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"\\u00e9","b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def checkpoint_of(path: Path, content: object) -> Weights:
    torch.save(content, path)
    return read_weights(path)


def test_the_digest_does_not_depend_on_the_container(
    tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    average = torch.ones(8)
    whole = {**tiny, "latent_avg": average}
    wanted = tensors_digest(whole)
    prefixed = {f"g_ema.{name}": tensor for name, tensor in tiny.items()} | {"latent_avg": average}
    save_file(prefixed | {"g.x": torch.ones(1)}, tmp_path / "prefixed.safetensors")
    save_file(whole, tmp_path / "bare.safetensors")
    full = {"g_ema": tiny, "latent_avg": average, "g": tiny, "d": {}, "g_optim": {"lr": 0.1}}
    found = [
        read_weights(tmp_path / f"{name}.safetensors").digest() for name in ("prefixed", "bare")
    ]
    found.append(checkpoint_of(tmp_path / "full.pt", full).digest())
    found.append(checkpoint_of(tmp_path / "state.pt", whole).digest())
    assert found == [wanted] * 4
    changed = {**whole, "noises.noise_0": whole["noises.noise_0"] + 1}
    assert checkpoint_of(tmp_path / "changed.pt", changed).digest() != wanted


def test_the_digest_does_not_depend_on_how_tensors_lie_in_memory(
    tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    laid = {}
    for name, tensor in tiny.items():
        turned = tensor.mT.contiguous().mT if tensor.ndim == 2 else tensor
        laid[name] = turned
        if tensor.ndim == 4:
            laid[name] = tensor.contiguous(memory_format=torch.channels_last)
    assert any(not tensor.is_contiguous() for tensor in laid.values())
    whole = torch.cat([tensor.flatten() for tensor in tiny.values()])
    views = dict(zip(tiny, whole.split([tensor.numel() for tensor in tiny.values()]), strict=True))
    views = {name: view.view(tiny[name].shape) for name, view in views.items()}
    placed = {name: torch.nn.Parameter(tensor) for name, tensor in tiny.items()}
    wanted = tensors_digest(tiny)
    for content in (laid, views, placed):
        found = checkpoint_of(tmp_path / "x.pt", {"g_ema": content})
        assert found.digest() == wanted
        with (tmp_path / "x.safetensors").open("wb") as file:
            write_weights(file, found, "safetensors")
        assert read_weights(tmp_path / "x.safetensors").digest() == wanted


def test_names_and_other_tensors_survive(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    named = {f"g_ema.{name}": tensor for name, tensor in tiny.items()} | {
        "latent_avg": torch.ones(8)
    }
    save_file(named | {"d.x": torch.arange(3)}, tmp_path / "a.safetensors")
    checkpoint = read_weights(tmp_path / "a.safetensors")
    with (tmp_path / "b.safetensors").open("wb") as file:
        write_weights(file, checkpoint, "safetensors")
    again = read_tensors(tmp_path / "b.safetensors")
    assert set(again) == {*named, "d.x"}
    assert torch.equal(again["d.x"], torch.arange(3))
    assert read_weights(tmp_path / "b.safetensors").tensors.keys() == checkpoint.tensors.keys()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "evil.pt"
    with pytest.raises(FileError, match="can run code when it is read"):
        checkpoint_of(path, {"g_ema": Code(trap)})
    path.write_bytes(pickle.dumps(Code(trap)))
    with pytest.raises(EditError):
        read_weights(path)
    assert not trap.exists()
    # The trap works: whoever unpickles it has the file.
    pickle.loads(path.read_bytes())
    assert trap.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x80\x02."])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(EditError):
        read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with pytest.raises(EditError):
        read_weights(path)


def test_what_holds_no_generator_is_named(tmp_path: Path) -> None:
    for content in ([1, 2], {"epoch": 3}, {"g_ema": [1]}, {}):
        with pytest.raises(WeightsError, match="holds"):
            checkpoint_of(tmp_path / "x.pt", content)


def test_numbers_that_are_not_finite_are_named(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    tiny["conv1.conv.weight"][0, 0, 0, 0, 0] = float("nan")
    save_file(tiny, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"not finite .* conv1\.conv\.weight"):
        read_weights(tmp_path / "nan.safetensors")


def test_builtin_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILTINS, "builtin:world", tmp_path / "weights.safetensors")

    def locate(weights: str) -> Path:
        return weights_path(weights, Path("/x"), cache=Cache(tmp_path))

    assert locate("builtin:world") == tmp_path / "weights.safetensors"
    assert locate("a/b.pt") == Path("/x/a/b.pt")
    with pytest.raises(FileError, match="builtin:world"):
        locate("builtin:other")


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_safetensors_header_of_any_length_is_no_pickle(tmp_path: Path, length: int) -> None:
    path, data = tmp_path / "a.safetensors", b""
    for padding in range(length):
        data = safetensors_bytes({"a": torch.ones(2)}, {"text": "x" * padding})
        if int.from_bytes(data[:8], "little") == length:
            break
    assert int.from_bytes(data[:8], "little") == length
    path.write_bytes(data)
    assert detect_container(path) == "safetensors"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=length >> 8))
    assert detect_container(path) == "pickle"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_are_no_plain_numbers_are_named(
    tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    weight = tiny["conv1.conv.weight"]
    for odd, kind in (
        (weight.to(torch.complex64), "complex64"),
        (weight.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (weight.abs().to(torch.uint16), "uint16"),
        (weight.to_sparse(), "sparse"),
        (weight.to("meta"), "without its numbers"),
        (torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "qint8"),
    ):
        with pytest.raises(
            WeightsError, match=rf"does not compute with: conv1\.conv\.weight \({kind}\)"
        ):
            checkpoint_of(tmp_path / "x.pt", {**tiny, "conv1.conv.weight": odd})


def test_half_precision_that_overflowed_is_told_from_a_training_that_diverged(
    tmp_path: Path,
) -> None:
    tensors = {"x": torch.tensor([1e6, 1.0]).half()}
    with pytest.raises(WeightsError, match="infinite in float16"):
        checkpoint_of(tmp_path / "x.pt", tensors)
    with pytest.raises(WeightsError, match="earlier checkpoint"):
        checkpoint_of(tmp_path / "x.pt", {"x": torch.tensor([float("inf")])})


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_mode_of_ordinary_files(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(mask)
    try:
        # The mask belongs to the process: a thread that changed it would change it for all.
        monkeypatch.setattr(os, "umask", None)
        write(tmp_path / "file", b"content")
        write(tmp_path / "file", b"other")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert (tmp_path / "file").read_bytes() == b"other"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_with_what_a_killed_run_left_is_free_for_the_next(tmp_path: Path) -> None:
    out, kind = tmp_path / "out", run_folder("tune.json", "tuning")
    out.mkdir()
    left = out / f".tune.json.{'0a' * 8}.part"
    left.write_bytes(b"half of it")
    os.utime(left, (time.time() - 60,) * 2)
    kind.require_free(out)
    assert list(out.iterdir()) == []
    # The control: what has another name is of somebody else, and stays.
    for name in (".notes.part", "tune.html"):
        (out / name).write_bytes(b"mine")
        with pytest.raises(FileError, match="in the way"):
            kind.require_free(out)
        (out / name).unlink()
