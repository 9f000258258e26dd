"""The cache is believed only where it can be checked, and is never needed."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.io import cache as cache_module
from editspec_runtime.io.cache import Cache, default_cache, hash_once
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import read_editspec_metadata, read_header, safetensors_bytes


def numbers(value: float = 1.0) -> dict[str, Tensor]:
    return {"second_moment": torch.full((3, 3), value, dtype=torch.float64)}


def fill(cache: Cache, value: float = 1.0, key: str = "a" * 64) -> Path:
    cache.tensors("statistics", key, lambda: numbers(value))
    return cache.path("statistics", key)


def moved(path: Path, other: Path) -> bytes:
    return other.read_bytes()


def changed_in_place(path: Path, other: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    return bytes(data)


def other_numbers_under_the_old_digest(path: Path, other: Path) -> bytes:
    return safetensors_bytes(numbers(7.0), read_editspec_metadata(read_header(path), path))


def a_digest_of_the_tensors_alone(path: Path, other: Path) -> bytes:
    forged = numbers(7.0)
    digest = tensors_digest(forged)
    return safetensors_bytes(forged, {"tensors": digest, "entry": digest})


def no_digest(path: Path, other: Path) -> bytes:
    return safetensors_bytes(numbers(7.0), {})


def a_foreign_dtype(path: Path, other: Path) -> bytes:
    metadata = read_editspec_metadata(read_header(path), path)
    return safetensors_bytes({"second_moment": torch.ones(3, dtype=torch.float8_e4m3fn)}, metadata)


FORGERIES: list[Callable[[Path, Path], bytes]] = [
    moved,
    changed_in_place,
    other_numbers_under_the_old_digest,
    a_digest_of_the_tensors_alone,
    no_digest,
    a_foreign_dtype,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
@pytest.mark.parametrize("read_before", [False, True])
def test_a_poisoned_entry_is_noticed(
    tmp_path: Path, forge: Callable[[Path, Path], bytes], read_before: bool
) -> None:
    cache = Cache(tmp_path)
    path, other = fill(cache), fill(cache, 2.0, "b" * 64)
    if read_before:
        assert cache.find("statistics", "a" * 64) is not None
    path.write_bytes(forge(path, other))
    assert cache.find("statistics", "a" * 64) is None
    tensors, found = cache.tensors("statistics", "a" * 64, lambda: numbers(3.0))
    assert not found
    assert torch.equal(tensors["second_moment"], numbers(3.0)["second_moment"])
    # Computed again, it is whole.
    assert cache.tensors("statistics", "a" * 64, numbers)[1]


def test_an_entry_of_another_kind_is_not_taken(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = fill(cache)
    place = cache.path("blocks", "a" * 64)
    place.parent.mkdir()
    place.write_bytes(path.read_bytes())
    assert cache.find("statistics", "a" * 64) is not None
    assert cache.find("blocks", "a" * 64) is None


def test_an_entry_is_hashed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, hashed = Cache(tmp_path), list[int]()

    def count(tensors: dict[str, Tensor]) -> str:
        hashed.append(1)
        return tensors_digest(tensors)

    path = fill(cache)
    monkeypatch.setattr(cache_module, "tensors_digest", count)
    for _ in range(3):
        assert cache.find("statistics", "a" * 64) is not None
    assert len(hashed) == 1
    os.utime(path, ns=(1, 1))
    assert cache.find("statistics", "a" * 64) is not None
    assert len(hashed) == 2


def test_a_file_is_hashed_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    times = path.stat()
    before = hash_once(path)
    assert hash_once(path) == before
    path.write_bytes(b"other")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hash_once(path) != before


def file_in_its_place(root: Path) -> Path:
    (root / "cache").write_bytes(b"")
    return root / "cache"


def dangling_link(root: Path) -> Path:
    (root / "cache").symlink_to(root / "nowhere" / "deep")
    return root / "cache"


def kernel_folder(root: Path) -> Path:
    return Path("/proc/editspec")


def folder_of_the_kind_is_a_file(root: Path) -> Path:
    (root / "cache").mkdir()
    (root / "cache/statistics").write_bytes(b"")
    (root / "cache/patches").write_bytes(b"")
    return root / "cache"


UNWRITABLE = [file_in_its_place, dangling_link, kernel_folder, folder_of_the_kind_is_a_file]


@pytest.mark.parametrize("make", UNWRITABLE, ids=lambda make: make.__name__)
def test_a_cache_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, make: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(make(tmp_path))
    for _ in range(2):
        tensors, found = cache.tensors("statistics", "a" * 64, numbers)
        assert not found
        assert torch.equal(tensors["second_moment"], numbers()["second_moment"])
    cache.keep("patches", "b" * 64, b"patch")
    cache.remove("statistics", "a" * 64)
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert str(cache.root) in said
    assert "EDITSPEC_CACHE" in said


def test_a_full_disk_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = Cache(tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", refuse)
    assert not cache.tensors("statistics", "a" * 64, numbers)[1]
    cache.keep("patches", "b" * 64, b"patch")
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert "No space left on device" in said
    left = [path for path in cache.root.rglob("*") if path.is_file()]
    assert [path.parent.name for path in left] == ["running"]  # the mark of this process alone
    # With room it is kept, and nothing is said.
    monkeypatch.undo()
    assert not cache.tensors("statistics", "a" * 64, numbers)[1]
    assert cache.tensors("statistics", "a" * 64, numbers)[1]
    assert capsys.readouterr().err == ""


def test_a_warm_cache_may_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not Cache(tmp_path / "cache").tensors("statistics", "a" * 64, numbers)[1]
    open_file = os.open

    def refuse(path: Any, flags: int, *mode: Any, **named: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return open_file(path, flags, *mode, **named)

    monkeypatch.setattr(os, "open", refuse)
    cache = Cache(tmp_path / "cache")
    tensors, found = cache.tensors("statistics", "a" * 64, lambda: pytest.fail("it is there"))
    assert found
    assert torch.equal(tensors["second_moment"], numbers()["second_moment"])
    # What is not there is computed all the same.
    assert not cache.tensors("statistics", "b" * 64, numbers)[1]
    assert capsys.readouterr().err.count("warning:") == 1


def test_the_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDITSPEC_CACHE", "~/kept")
    assert default_cache().root == tmp_path / "kept"
    monkeypatch.setenv("EDITSPEC_CACHE", "~nobody-of-this-name/kept")
    with pytest.raises(FileError, match="home of a user"):
        default_cache()


@pytest.mark.parametrize("make", UNWRITABLE, ids=lambda make: make.__name__)
def test_a_build_does_its_work_without_a_cache(
    program: Path, tmp_path: Path, tiny_spec: Callable[..., Any], make: Callable[[Path], Path]
) -> None:
    spec = tiny_spec(tmp_path)
    cache = make(tmp_path)

    def build(out: str, root: Path) -> subprocess.CompletedProcess[str]:
        command = [program, "build", str(spec), "-o", out]
        environment = os.environ | {"EDITSPEC_CACHE": str(root)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = build("out", cache)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning:") == 1
    assert str(cache) in done.stderr
    assert "EDITSPEC_CACHE" in done.stderr
    (patch,) = (tmp_path / "out/patches").iterdir()
    control = build("control", tmp_path / "good")
    assert control.returncode == 0
    assert "warning:" not in control.stderr
    assert (tmp_path / "control/patches" / patch.name).read_bytes() == patch.read_bytes()
