"""Pickles and checkpoints take what they are, and not what they say; each beside a sound one."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editspec_runtime.errors import EditError, FileError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io import pickle_scan
from editspec_runtime.io.pickle_scan import scan_pickle
from editspec_runtime.io.pickles import read_pickle
from editspec_runtime.io.torch_files import read_torch
from tests.commands import run

WEIGHTS = {"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.float16)}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def nested(depth: int, end: bytes, *, lists: bool = False) -> bytes:
    """A pickle of an object that holds the one before it twice, `depth` times over."""
    data = b"\x80\x02}K\x02](" + (b"]" if lists else b"K\x00\x85") + b"q\x00"
    for number in range(depth):
        same = b"h" + bytes([number])
        data += b"](" + same * 2 + b"e" if lists else same * 2 + b"\x86"
        data += b"q" + bytes([number + 1])
    return data + b"es" + end.replace(b"LAST", b"h" + bytes([depth]))


KEY = b"LASTK\x01s."
SET = b"K\x01c__builtin__\nset\n(LAST\x85tRs."
CALL = b"K\x01ccollections\nOrderedDict\n](LASTK\x01\x86e\x85Rs."
ITEMS = b"(LASTK\x01u."
AS_A_DICTIONARY = b"0(LASTK\x01d."
ENDS = {"key": KEY, "set": SET, "call": CALL, "items": ITEMS, "dictionary": AS_A_DICTIONARY}


def write_zip(content: bytes) -> Path:
    torch.save(WEIGHTS, "plain.pt")
    with zipfile.ZipFile("plain.pt") as plain, zipfile.ZipFile("a.pt", "w") as archive:
        for name in plain.namelist():
            changed = content if name.endswith("/data.pkl") else plain.read(name)
            archive.writestr(name, changed)
    return Path("a.pt")


def old_checkpoint(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("end", ENDS)
def test_keys_that_are_nested_in_one_another_are_refused(end: str) -> None:
    for depth, sound in ((100, False), (8, True)):
        data = nested(depth, ENDS[end])
        Path("a.pkl").write_bytes(data)
        old = old_checkpoint({})
        content = old.index(b"\x80\x02}q\x00.")
        Path("old.pt").write_bytes(old[:content] + data + old[content + 6 :])
        for read, path in (
            (read_pickle, Path("a.pkl")),
            (read_torch, write_zip(data)),
            (read_torch, Path("old.pt")),
        ):
            begun = time.monotonic()
            if sound and not (end == "dictionary" and path.suffix == ".pt"):
                assert isinstance(read(path), dict)
            else:
                with pytest.raises(FileError):
                    read(path)
            assert time.monotonic() - begun < 100


def test_lists_that_share_their_parts_are_read() -> None:
    data = nested(100, b"K\x01LASTs.", lists=True)
    Path("a.pkl").write_bytes(data)
    assert isinstance(read_pickle(Path("a.pkl")), dict)
    begun = time.monotonic()
    for path in ("a.pkl", str(write_zip(data))):
        result = run("inspect", path)
        assert result.exit_code in (1, 2), result.stderr
    assert time.monotonic() - begun < 100


def test_large_numbers_as_keys_count_by_their_size() -> None:
    number = b"\x8b\x00\x00\x10\x00" + b"\x01" * 2**20 + b"q\x00"
    few, many = b"}" + number + b"Ns", b"h\x00Ns" * 2**14
    assert scan_pickle(io.BytesIO(b"\x80\x02" + few + b"."), 2**21).names == set()
    with pytest.raises(pickle.UnpicklingError):
        scan_pickle(io.BytesIO(b"\x80\x02" + few + many + b"."), 2**21)


def test_pickles_of_very_many_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "CALLS", 1000)
    Path("a.pkl").write_bytes(pickle.dumps(list(range(200))))
    assert read_pickle(Path("a.pkl")) == list(range(200))
    Path("a.pkl").write_bytes(pickle.dumps(list(range(2000))))
    with pytest.raises(FileError):
        read_pickle(Path("a.pkl"))


@pytest.mark.parametrize("number", [4, 10**4, 10**11])
def test_an_old_checkpoint_has_the_numbers_that_it_says(number: int) -> None:
    data = old_checkpoint(WEIGHTS)
    said = b"K\x03Nt"
    assert data.count(said) == 1
    Path("a.pt").write_bytes(data)
    assert torch.equal(read_torch(Path("a.pt"))["a"], torch.ones(3))  # type: ignore[index]
    claimed = b"\x8a\x06" + number.to_bytes(6, "little") + b"Nt"
    Path("a.pt").write_bytes(data.replace(said, claimed))
    with pytest.raises(FileError):
        read_torch(Path("a.pt"))


def test_a_storage_is_as_large_as_its_entry() -> None:
    torch.save(WEIGHTS, "plain.pt")
    with zipfile.ZipFile("plain.pt") as plain:
        data = next(plain.read(name) for name in plain.namelist() if name.endswith("/data.pkl"))
    assert read_torch(write_zip(data))
    for claimed in (b"K\x30", b"\x8a\x05" + (10**11).to_bytes(5, "little")):
        with pytest.raises(FileError):
            read_torch(write_zip(data.replace(b"K\x03tq", claimed + b"tq", 1)))


def test_a_tensor_is_no_larger_than_its_storage() -> None:
    torch.save(WEIGHTS, "plain.pt")
    with zipfile.ZipFile("plain.pt") as plain:
        data = next(plain.read(name) for name in plain.namelist() if name.endswith("/data.pkl"))
    assert data.count(b"K\x03\x85q") == 1
    for claimed in (b"K\x04", b"\x8a\x05" + (10**11).to_bytes(5, "little"), b"K\x01\x85"):
        with pytest.raises(FileError):
            read_torch(write_zip(data.replace(b"K\x03\x85q", claimed + b"\x85q")))


class Bytes:
    """Something whose pickle allocates as many bytes as a number says."""

    def __reduce__(self) -> Any:
        return bytearray, (10**10,)


@pytest.mark.parametrize("new", [True, False])
def test_a_checkpoint_names_plain_containers_and_tensors(new: bool) -> None:
    sound: dict[str, Any] = WEIGHTS | {"more": [1, 2.5, b"x", {1}, (1, None), 2j, torch.Size([1])]}
    torch.save(sound, "a.pt", _use_new_zipfile_serialization=new)
    found = read_torch(Path("a.pt"))
    assert isinstance(found, dict)
    assert found["more"] == sound["more"]
    torch.save(WEIGHTS | {"more": Bytes()}, "a.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(FileError, match="bytearray"):
        read_torch(Path("a.pt"))


def test_what_a_message_shows_of_a_pickle_is_short(make_tiny: Any) -> None:
    weights: dict[Any, Tensor] = dict(make_tiny())
    key: Any = (0,)
    for _ in range(16):
        key = (key, key)
    torch.save({key: 1}, "a.pt")
    begun = time.monotonic()
    with pytest.raises(EditError) as caught:
        read_weights(Path("a.pt"))
    assert len(str(caught.value)) < 2000
    assert time.monotonic() - begun < 100
    torch.save(weights | {key: torch.ones(1)}, "a.pt")
    assert set(read_weights(Path("a.pt"))) == set(weights)
