"""Memory and time are bounded by what a file is, not by what it says; and no defect ends a command.

Each refused input has a neighbour that is read, so that no test passes for another reason.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec_runtime.errors import EditError, FileError, PatchError, WeightsError, reading_foreign
from editspec_runtime.families.open import read_weights
from editspec_runtime.io import downloads, pickles
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.files import read_header, safetensors_bytes
from editspec_runtime.io.json_text import JsonError, parse_json
from editspec_runtime.io.places import weights_path
from editspec_runtime.io.shards import read_stored
from editspec_runtime.patches.patch import Patch, make_patch, read_patch
from tests.commands import run

MakeTiny = Callable[..., dict[str, Tensor]]
GIB = 2**30


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "cache"))


@contextmanager
def bounded(seconds: float = 60.0) -> Iterator[None]:
    """Within this, little time of a processor and little memory is taken."""
    # Not by the clock: a machine that does other work, too, takes as long as it likes.
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - begun < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GIB


# Pickles


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}r\xff\xff\xff\x08.",
        b"\x80\x02}r\x00\x00\x00\x10.",
        b"\x80\x02}p268435456\n.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00.",
        b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x02" + b"(" * 100_000,
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
    ],
)
def test_a_small_pickle_takes_little(data: bytes) -> None:
    Path("a.pkl").write_bytes(data)
    with bounded(), pytest.raises(EditError):
        read_weights(Path("a.pkl"))


def test_pickles_that_number_their_objects_are_read() -> None:
    content = [{"a": [1, 2]}, "text"]
    for protocol in range(6):
        assert pickles.load(io.BytesIO(pickle.dumps(content, protocol))) == content


def module(children: dict[str, Any]) -> pickles.Module:
    return pickles.Module("Net", {"_modules": children, "_parameters": {"w": torch.ones(1)}})


def test_a_module_that_is_its_own_child_is_damage() -> None:
    children: dict[str, Any] = {}
    own = module(children)
    children["child"] = own
    with bounded(), pytest.raises(pickle.UnpicklingError):
        own.state_dict()
    doubled = module({})
    for _ in range(60):
        doubled = module({"a": doubled, "b": doubled})
    with bounded(), pytest.raises(pickle.UnpicklingError):
        doubled.state_dict()
    assert list(module({"b": module({}), "a": module({})}).state_dict()) == ["w", "b.w", "a.w"]


# Checkpoints of torch


def test_tensors_that_repeat_what_is_stored_are_refused(tiny: dict[str, Tensor]) -> None:
    huge = torch.ones(1).as_strided((10**6, 10**5), (0, 0))
    torch.save(tiny | {"huge": huge}, "a.pt")
    with bounded(), pytest.raises(FileError, match="times as much"):
        read_weights(Path("a.pt"))
    torch.save(tiny | {"huge": torch.ones(1).as_strided((10, 10), (0, 0))}, "a.pt")
    assert read_weights(Path("a.pt"))["huge"].shape == (10, 10)


def test_a_checkpoint_that_is_packed_tightly_is_refused(tiny: dict[str, Tensor]) -> None:
    torch.save(tiny | {"zeros": torch.zeros(2 * 10**7)}, "plain.pt")
    with (
        zipfile.ZipFile("plain.pt") as plain,
        zipfile.ZipFile("a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert Path("a.pt").stat().st_size < 2**20
    with bounded(), pytest.raises(FileError, match="times as much"):
        read_weights(Path("a.pt"))
    assert "zeros" in read_weights(Path("plain.pt"))


def test_names_that_share_a_storage_are_converted_and_edited(make_tiny: MakeTiny) -> None:
    weights = make_tiny()
    name = next(name for name in weights if name.endswith("modulation.bias"))
    other = next(
        n
        for n in weights
        if n != name and n.endswith("bias") and weights[n].shape == weights[name].shape
    )
    weights[other] = weights[name]
    torch.save(weights, "a.pt")
    result = run("convert", "a.pt", "a.safetensors")
    assert result.exit_code == 0, result.stderr
    assert read_weights(Path("a.pt")).digest() == read_weights(Path("a.safetensors")).digest()
    shared = torch.arange(8.0)
    assert safetensors_bytes({"a": shared[:4], "b": shared[2:]}, {})


@pytest.mark.parametrize("shape", [(), (1,), (2, 8), (8, 1), (1, 1, 8), (9,)])
def test_a_mean_of_w_of_another_shape_is_refused(
    tiny: dict[str, Tensor], shape: tuple[int, ...]
) -> None:
    save_file(tiny | {"latent_avg": torch.zeros(shape)}, "a.safetensors")
    result = run("inspect", "a.safetensors")
    assert (result.exit_code, "latent_avg is" in result.stderr) == (1, True), result.stderr


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
def test_a_mean_of_w_is_one_w(tiny: dict[str, Tensor], shape: tuple[int, ...]) -> None:
    save_file(tiny | {"latent_avg": torch.zeros(shape)}, "a.safetensors")
    assert run("inspect", "a.safetensors").exit_code == 0
    save_file(tiny | {"latent_avg": torch.zeros(shape, dtype=torch.int64)}, "a.safetensors")
    assert run("inspect", "a.safetensors").exit_code == 1


def test_names_that_steer_a_terminal_are_refused(tiny: dict[str, Tensor]) -> None:
    for name in ("\x1b[31m", "a\nb", "a" * 2000):
        save_file(tiny | {name: torch.ones(1)}, "a.safetensors")
        with pytest.raises(FileError, match="named"):
            read_header(Path("a.safetensors"))
        torch.save(tiny | {name: torch.ones(1)}, "a.pt")
        with pytest.raises(FileError, match="named"):
            read_weights(Path("a.pt"))


# Patches


def write_patch(directions: Tensor, coefficients: Tensor, name: str = "edit") -> Path:
    """A patch that is whole by its own digest."""
    metadata = {"name": name, "family": "stylegan2", "layer": "layer5", "rank": 1, "edit": "0" * 64}
    metadata |= {"base": "0" * 64, "parent": "0" * 64, "result": "0" * 64}
    patch = make_patch(
        {"a.weight": directions},
        {"a.weight": coefficients},
        {"a.weight": "o i"},
        metadata | {"solver": {"method": "direct"}},
    )
    Path("p.safetensors").write_bytes(patch.to_bytes())
    return Path("p.safetensors")


def test_a_patch_of_a_huge_change_is_not_written_out() -> None:
    path = write_patch(torch.ones(1, 200_000), torch.ones(200_000, 1))
    with bounded():
        patch = read_patch(path)
        with pytest.raises(PatchError, match="written out"):
            patch.delta("a.weight")
        with pytest.raises(PatchError, match="these weights have"):
            patch.known_change("a.weight", torch.ones(4))
        for command in (
            ("export", path, "--format", "delta", "-o", "out.safetensors"),
            ("diff", path, write_other(path)),
        ):
            result = run(*command)
            assert result.exit_code == 1, result.stdout
            assert "defect" not in result.stderr
    small = read_patch(write_patch(torch.ones(1, 3), torch.ones(2, 1)))
    assert torch.equal(small.known_change("a.weight", torch.ones(2, 3)), small.delta("a.weight"))


def write_other(path: Path) -> Path:
    """Another patch beside one, of the same shapes."""
    whole = path.read_bytes()
    write_patch(torch.ones(1, 200_000), 2 * torch.ones(200_000, 1)).rename("q.safetensors")
    path.write_bytes(whole)
    return Path("q.safetensors")


@pytest.mark.parametrize(
    ("directions", "coefficients"),
    [
        (torch.tensor(1.0), torch.tensor(1.0)),
        (torch.ones(3), torch.ones(2, 1)),
        (torch.ones(1, 3), torch.ones(2)),
        (torch.ones(2, 3), torch.ones(2, 1)),
        (torch.ones(0, 3), torch.ones(2, 0)),
        (torch.ones(1, 0), torch.ones(2, 1)),
        (torch.full((1, 3), torch.nan), torch.ones(2, 1)),
    ],
)
def test_factors_that_are_none_are_damage(directions: Tensor, coefficients: Tensor) -> None:
    with pytest.raises(PatchError, match="damaged"):
        read_patch(write_patch(directions, coefficients))


def test_numbers_of_eight_bits_are_damage() -> None:
    path = write_patch(torch.ones(1, 3), torch.ones(2, 1))
    read_patch(path)
    tensors = {name: t.to(torch.float8_e4m3fn) for name, t in load_file(path).items()}
    save_file(tensors, path, read_header(path).metadata)
    with pytest.raises(PatchError, match="F8_E4M3"):
        read_patch(path)


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\n::error::b"])
def test_a_name_that_steers_a_terminal_is_damage(name: str) -> None:
    path = write_patch(torch.ones(1, 3), torch.ones(2, 1), name)
    with pytest.raises(PatchError, match="damaged patch: its name"):
        read_patch(path)
    for command in (("inspect", path), ("diff", path, path)):
        result = run(*command)
        assert (result.stdout + result.stderr).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "metadata",
    ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"version": NaN}', "[]", "null", "\\ud800", ""],
)
def test_metadata_that_are_no_json_are_damage(metadata: str) -> None:
    save_file({"a.weight.delta": torch.ones(2)}, "p.safetensors", {"editspec": metadata})
    with bounded(), pytest.raises(EditError):
        read_patch(Path("p.safetensors"))


# Text


@pytest.mark.parametrize(
    "text", ["[" * 101, "1" * 301, "NaN", "-Infinity", '{"a": Infinity}', "", b"\xff", '"\x00"']
)
def test_json_beyond_the_bounds(text: str | bytes) -> None:
    with pytest.raises(JsonError):
        parse_json(text)


def test_json_within_the_bounds() -> None:
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json('{"a": "[[[\\"' + "{" * 500 + '"}') == {"a": '[[["' + "{" * 500}
    assert parse_json("9" * 300) == 10**300 - 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"statistics": {"samples": 10**30}}, "samples"),
        ({"statistics": {"samples": 10**8}}, "samples"),
        ({"model": {"family": "stylegan2", "weights": "https://[/x"}}, "not an address"),
        ({"model": {"family": "stylegan2", "weights": "https://a:b/x"}}, "not an address"),
        ({"model": {"family": "stylegan2", "weights": "a\0b.pt"}}, "control characters"),
        ({"model": {"family": "stylegan2", "weights": "https://a/\x1b[31m"}}, ""),
        ({"model": {"family": "stylegan2", "weights": "a" * 300 + ".pt"}}, ""),
        ({"model": {"family": "stylegan2", "weights": "a" * 5000}}, ""),
        ({"edits": [{"name": "n" * 300}]}, "name"),
        ({"edits": [{"solver": {"method": "direct", "steps": 10**30}}]}, "steps"),
        ({"edits": [{"context": [{"latent": 1, "mask": {"box": [0, 0, 8, 8]}, "weight": 1e308}]}]},
         "weight"),
    ],
)  # fmt: skip
def test_a_spec_beyond_the_limits_is_wrong(
    tiny: dict[str, Tensor], change: dict[str, Any], words: str
) -> None:
    save_file(tiny, "a.safetensors")
    edit = {"name": "e", "layer": "layer3"}
    edit |= {"source": {"latent": 0, "mask": {"box": [0, 0, 8, 8]}}}
    edit |= {"target": {"latent": 1, "mask": {"box": [0, 0, 8, 8]}}}
    spec: dict[str, Any] = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "a.safetensors"},
    }
    spec |= {"statistics": {"samples": 16}, "edits": [edit]}
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    assert run("validate", "spec.yaml").exit_code == 0
    (edited,) = change.pop("edits", [{}])
    spec |= change
    edit |= edited
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    Path("spec.json").write_text(json.dumps(spec))
    for name in ("spec.yaml", "spec.json"):
        with bounded():
            result = run("validate", name)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert "defect" not in result.stderr


def test_a_number_of_many_digits_in_json_is_wrong() -> None:
    for digits in (4300, 4301, 100_000):
        Path("spec.json").write_text('{"version": ' + "1" * digits + "}")
        with bounded():
            result = run("validate", "spec.json")
        assert (result.exit_code, "defect" in result.stderr) == (2, False), result.stderr


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf"])
def test_a_scale_that_is_no_number_is_wrong(scale: str) -> None:
    result = run(
        "apply", "--model", "builtin:skyline", "p.safetensors", "--scale", scale, "--dry-run"
    )
    assert (result.exit_code, "finite" in result.stderr) == (2, True), result.stderr


def test_places_that_are_none() -> None:
    for weights in ("a\0b", "a\nb", "\x1b[31m"):
        with pytest.raises(FileError, match="control characters"):
            weights_path(weights, Path(), cache=default_cache())
    with pytest.raises(FileError):
        read_stored(Path("a" * 300))


def test_whatever_goes_wrong_with_foreign_data_is_about_them() -> None:
    for error in (
        KeyError("x"),
        RecursionError(),
        AssertionError(),
        AttributeError("y"),
        OSError(),
    ):
        with pytest.raises(FileError, match=r"a\.pt cannot be read"), reading_foreign("a.pt"):
            raise error
    with pytest.raises(WeightsError), reading_foreign("a.pt"):
        raise WeightsError("w")
    with pytest.raises(KeyboardInterrupt), reading_foreign("a.pt"):
        raise KeyboardInterrupt


# Servers


@contextmanager
def server(answer: bytes, then: bytes = b"") -> Iterator[str]:
    """An address at which a server answers with bytes, and goes on with others without an end."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            try:
                connection.recv(65536)
                connection.sendall(answer)
                while then:
                    connection.sendall(then)
            except OSError:
                pass
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/w.pt#sha256={'0' * 64}"
    # Closing alone leaves the thread in accept, on a number that the next file may get.
    with suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(timeout=60)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"junk\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 302 Found\r\nLocation: http://[/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: //x:y/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 500 \xff\x1b[31m\r\n\r\n",
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_answers_that_are_broken(answer: bytes) -> None:
    with server(answer) as address, bounded(), pytest.raises(FileError) as caught:
        downloads.fetch(downloads.parse_remote(address, default_cache()))
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_download_without_an_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "UNSAID", 2**22)
    endless = b"HTTP/1.1 200 OK\r\n\r\n"
    with (
        server(endless, b"x" * 2**16) as address,
        bounded(),
        pytest.raises(FileError, match="sent more"),
    ):
        downloads.fetch(downloads.parse_remote(address, default_cache()))
    assert not list(Path("cache").rglob("*.partial"))


def test_a_download_that_never_comes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.0)
    monkeypatch.setattr(downloads, "SLOWEST", 10**12)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000
    with server(answer, b"x") as address, bounded(), pytest.raises(FileError, match="seconds"):
        downloads.fetch(downloads.parse_remote(address, default_cache()))


def test_a_full_disk_is_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "KEPT_FREE", 2**60)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"
    with server(answer) as address, pytest.raises(FileError, match="free"):
        downloads.fetch(downloads.parse_remote(address, default_cache()))


def test_patches_are_what_they_were() -> None:
    patch = read_patch(write_patch(torch.ones(1, 3), torch.ones(2, 1)))
    assert isinstance(patch, Patch)
    assert patch.numbers("a.weight") == 6
