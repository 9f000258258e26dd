"""Files of torch.export by somebody who has read torch's source: nothing of theirs runs."""

from __future__ import annotations

import io
import json
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from editspec_runtime.errors import FileError
from editspec_runtime.families.torch_module.exported import read_exported
from editspec_runtime.io.operators import is_harmless
from editspec_runtime.io.program_text import clean_graph

GRAPH = "net/models/model.json"
CONFIG = "net/data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The entries of a file of a network whose batch is dynamic, by their names."""
    network = nn.Sequential(nn.ConvTranspose2d(5, 3, 4), nn.Tanh()).eval()
    shapes = ({0: torch.export.Dim("n")},)
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (torch.zeros(2, 5, 1, 1),), dynamic_shapes=shapes)
        torch.export.save(program, path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile("net.pt2", "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return Path("net.pt2")


def with_graph(entries: dict[str, bytes], change: Callable[[Any], None]) -> Path:
    content = json.loads(entries[GRAPH])
    change(content)
    return write(entries | {GRAPH: json.dumps(content).encode()})


def signature(content: Any) -> Any:
    return content["graph_module"]["module_call_graph"][0]["signature"]


def first_node(content: Any) -> Any:
    return content["graph_module"]["graph"]["nodes"][0]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pickled_code() -> bytes:
    class Code:
        def __reduce__(self) -> Any:
            return exec, ("open('ran', 'w').close()",)

    buffer = io.BytesIO()
    torch.save({"0.weight": Code()}, buffer)
    return buffer.getvalue()


def test_the_file_itself_is_read(entries: dict[str, bytes]) -> None:
    module, _ = read_exported(write(entries))
    assert module(torch.zeros(3, 5, 1, 1)).shape == (3, 3, 4, 4)


def test_a_program_without_a_graph_is_refused(entries: dict[str, bytes]) -> None:
    path = with_graph(entries, lambda content: content.pop("graph_module"))
    with pytest.raises(FileError, match="damaged"):
        read_exported(path)


def test_a_context_that_names_a_module_imports_nothing(
    entries: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(".")
    Path("looks_like_a_mask.py").write_text("open('ran', 'w').close()")

    def change(content: Any) -> None:
        version, tree = json.loads(signature(content)["in_spec"])
        fqn = {"__enum__": True, "fqn": "looks_like_a_mask:x", "name": "y"}
        tree["context"] = json.dumps(fqn)
        signature(content)["in_spec"] = json.dumps([version, tree])

    with pytest.raises(FileError, match="It was not executed"):
        read_exported(with_graph(entries, change))
    assert not Path("ran").exists()


def test_trees_of_other_types_are_refused(entries: dict[str, bytes]) -> None:
    for kind, context in (
        ("collections.namedtuple", json.dumps("os.stat_result")),
        ("collections.defaultdict", json.dumps({"default_factory_module": "os"})),
        ("collections.OrderedDict", "[]"),
        ("torch.Size", "null"),
        ("builtins.dict", json.dumps(["x'); import os; ('"])),
    ):

        def change(content: Any, kind: str = kind, context: str = context) -> None:
            tree = {"type": kind, "context": context, "children_spec": []}
            signature(content)["out_spec"] = json.dumps([1, tree])

        with pytest.raises(FileError, match="It was not executed"):
            read_exported(with_graph(entries, change))


@pytest.mark.parametrize("last", [False, True])
def test_an_entry_that_stands_twice_is_refused(entries: dict[str, bytes], last: bool) -> None:
    pickled = entries[CONFIG].replace(b'"use_pickle": false', b'"use_pickle": true')
    both = [entries[CONFIG], pickled] if last else [pickled, entries[CONFIG]]
    with warnings.catch_warnings(), zipfile.ZipFile("net.pt2", "w") as archive:
        warnings.simplefilter("ignore")
        for config in both:
            archive.writestr(CONFIG, config)
        for name, data in entries.items():
            if "weight_" in name:
                archive.writestr(name, pickled_code())
            elif name != CONFIG:
                archive.writestr(name, data)
    with pytest.raises(FileError, match="occurs twice"):
        read_exported(Path("net.pt2"))
    assert not Path("ran").exists()


def test_samples_are_never_unpickled(entries: dict[str, bytes]) -> None:
    sample = "net/data/sample_inputs/model.pt"
    with pytest.raises(FileError, match="It was not executed"):
        read_exported(write(entries | {sample: pickled_code()}))
    assert not Path("ran").exists()


def test_what_torch_would_write_into_python_is_refused(entries: dict[str, bytes]) -> None:
    code = "x = open('ran', 'w').close()"

    def names(content: Any) -> None:
        text = json.dumps(content["graph_module"])
        content["graph_module"] = json.loads(text.replace('"tanh"', json.dumps(code)))

    def path(content: Any) -> None:
        text = json.dumps(content["graph_module"])
        content["graph_module"] = json.loads(text.replace('"0.weight"', json.dumps('a").' + code)))

    def stack(content: Any) -> None:
        first_node(content)["metadata"]["nn_module_stack"] = f'a,b"){code},c'

    def arguments(content: Any) -> None:
        signature(content)["forward_arg_names"] = [f"z={code}"]

    for change in (names, path, stack, arguments):
        with pytest.raises(FileError, match="It was not executed"):
            read_exported(with_graph(entries, change))
    assert not Path("ran").exists()


def test_guards_traces_and_sources_are_left_out(entries: dict[str, bytes]) -> None:
    content = json.loads(entries[GRAPH])
    content["guards_code"] = ["open('ran', 'w').close()"]
    first_node(content)["metadata"] |= {"stack_trace": "\nimport os", "from_node": "[{}]"}
    clean = json.loads(clean_graph(json.dumps(content).encode()))
    assert clean["guards_code"] == []
    assert set(first_node(clean)["metadata"]) == {"nn_module_stack"}


SIZES = [
    "9**9**9",
    "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
    "2*s0",
    "Symbol('s0', positive=exec('1'))",
    "Symbol('s0').__class__",
    "exec('1')",
    "Symbol(exec('1'))",
    "s0" + "+1" * 600,
    "(lambda: 1)()",
    "[s0 for s0 in s0]",
]
"""Sizes that are more than one symbol."""


def with_size(entries: dict[str, bytes], tensor: str, size: str) -> Path:
    def change(content: Any) -> None:
        values = content["graph_module"]["graph"]["tensor_values"]
        values[tensor]["sizes"][0] = {"as_expr": {"expr_str": size, "hint": None}}

    return with_graph(entries, change)


@pytest.mark.parametrize("size", SIZES)
def test_a_size_of_an_input_is_a_number_or_a_symbol(entries: dict[str, bytes], size: str) -> None:
    begun = time.process_time()
    with pytest.raises(FileError, match="It was not executed"):
        read_exported(with_size(entries, "input", size))
    assert time.process_time() - begun < 50


@pytest.mark.parametrize("size", SIZES)
def test_sizes_between_operators_are_never_read(entries: dict[str, bytes], size: str) -> None:
    begun = time.process_time()
    module, _ = read_exported(with_size(entries, "tanh", size))
    assert time.process_time() - begun < 50
    assert module(torch.zeros(3, 5, 1, 1)).shape == (3, 3, 4, 4)


def test_symbols_that_torch_would_count_up_to_are_left_out(entries: dict[str, bytes]) -> None:
    def change(content: Any) -> None:
        content["range_constraints"]["u99999999999"] = {"min_val": 0, "max_val": None}

    begun = time.process_time()
    read_exported(with_graph(entries, change))
    assert time.process_time() - begun < 50


def test_tensors_are_no_larger_than_what_is_stored(entries: dict[str, bytes]) -> None:
    for field, value in (
        ("sizes", [{"as_int": 10**11}, {"as_int": 1}, {"as_int": 1}, {"as_int": 1}]),
        ("strides", [{"as_int": 10**9}] * 4),
        ("storage_offset", {"as_int": 10**6}),
        ("storage_offset", {"as_int": -1}),
        ("dtype", 11),
        ("layout", 1),
    ):
        config = json.loads(entries[CONFIG])
        config["config"]["0.weight"]["tensor_meta"][field] = value
        with pytest.raises(FileError, match="It was not executed"):
            read_exported(write(entries | {CONFIG: json.dumps(config).encode()}))
    config = json.loads(entries[CONFIG])
    config["config"]["0.weight"]["tensor_meta"]["strides"] = [{"as_int": 0}] * 4
    config["config"]["0.weight"]["tensor_meta"]["sizes"] = [{"as_int": 10**4}] * 4
    with pytest.raises(FileError, match="It was not executed"):
        read_exported(write(entries | {CONFIG: json.dumps(config).encode()}))


@pytest.mark.parametrize(
    ("target", "harmless"),
    [
        ("torch.ops.aten.conv_transpose2d.input", True),
        ("torch.ops.aten.leaky_relu_.default", True),
        ("torch.ops.aten.upsample_bilinear2d.vec", True),
        ("torch.ops.aten.sym_size.int", True),
        ("_operator.mul", True),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.aten.save.default", False),
        ("torch.ops.aten.set_.source_Storage_storage_offset", False),
        ("torch.ops.aten.resize_.default", False),
        ("torch.ops.aten._embedding_bag.default", False),
        ("torch.ops.aten.fbgemm_linear_int8_weight.default", False),
        ("torch.ops.aten.max_pool2d_with_indices_backward.default", False),
        ("torch.ops.prim.device.default", False),
        ("torch.ops.aten.__class__.default", False),
        ("torch.os.system", False),
        ("_operator.attrgetter", False),
        ("math.floor", False),
        ("#torch.ops", False),
    ],
)
def test_operators_that_only_compute(target: str, harmless: bool) -> None:
    assert is_harmless(target) is harmless


def rewritten(change: Callable[[bytearray], Any]) -> Path:
    data = bytearray(Path("net.pt2").read_bytes())
    Path("net.pt2").write_bytes(change(data) or data)
    return Path("net.pt2")


def test_archives_that_two_readers_see_differently_are_refused(entries: dict[str, bytes]) -> None:
    def before(data: bytearray) -> bytes:
        return b"#!/bin/sh\n" + data

    def behind(data: bytearray) -> bytes:
        return bytes(data) + b"more"

    def comment(data: bytearray) -> bytes:
        return bytes(data[:-2]) + b"\x04\x00more"

    def encrypted(data: bytearray) -> None:
        at = data.rindex(b"PK\x01\x02")
        data[at + 8] |= 1

    def own_name(data: bytearray) -> None:
        at = data.index(b"net/")
        data[at : at + 4] = b"not/"

    def between(data: bytearray) -> bytes:
        (directory,) = struct.unpack_from("<L", data, len(data) - 6)
        end = data[-22:]
        struct.pack_into("<L", end, 16, directory + 4)
        return bytes(data[:directory]) + b"more" + bytes(data[directory:-22]) + bytes(end)

    for change in (before, behind, comment, encrypted, own_name, between):
        write(entries)
        with pytest.raises(FileError, match="not a sound archive"):
            read_exported(rewritten(change))
    for name in ("/net/version", "net/../version", "net/a\\b", "net/\x1b[31m"):
        with pytest.raises(FileError, match=r"not a sound archive|It was not executed"):
            read_exported(write({**entries, name: b"1"}))


def test_an_archive_that_expands_is_refused(entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile("net.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, bytes(10**8) if name.endswith("weight_0") else data)
    with pytest.raises(FileError, match="times as much"):
        read_exported(Path("net.pt2"))


def test_a_graph_of_deep_text_is_refused(entries: dict[str, bytes]) -> None:
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\xff", b""):
        with pytest.raises(FileError, match="It was not executed"):
            read_exported(write(entries | {GRAPH: text}))
