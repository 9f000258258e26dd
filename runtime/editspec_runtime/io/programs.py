"""Programs in files of ``torch.export``: a graph of operators and its weights.

torch's reader resolves operators by name anywhere in torch, evaluates sizes as Python expressions
and unpickles what it finds. It is therefore never given the file. Each entry of the archive is
read once, of its texts only what is known to be harmless is kept (`program_text`), and torch reads
a new archive, in memory, that is written of nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from editspec_runtime.errors import FileError, reading_foreign
from editspec_runtime.io.archives import EXPANSION, SLACK, Archive, open_archive
from editspec_runtime.io.files import require_file
from editspec_runtime.io.program_text import Refused, clean_graph, clean_payloads
from editspec_runtime.io.torch_files import quiet_torch, read_torch

ENTRY = re.compile(
    r"(data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|byteorder"
    r"|version|\.data/(version|serialization_id)|\.format_version|\.storage_alignment)"
)
"""What an archive may hold, within its one folder."""

WEIGHTS, WEIGHT = "data/weights/", re.compile(r"weight_\d{1,8}")
CONSTANTS, CONSTANT = "data/constants/", re.compile(r"tensor_\d{1,8}")
GRAPH, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""Bytes of a number by torch.export's number of its dtype: integers, floats and booleans."""

GRAPH_BYTES = 2**24
"""The most bytes that the text of a graph may have."""


def read_program(path: Path) -> tuple[ExportedProgram, str]:
    """Read the program of a ``.pt2`` file, and the digest of its graph.

    Raises `FileError` where the file is missing, damaged, or holds more than a graph of operators
    and tensors.
    """
    require_file(path)
    with reading_foreign(path):
        archive = open_archive(path)
        try:
            graph, clean = _rewrite(archive, path)
        except Refused as error:
            raise _refusal(path, str(error)) from error
        with reading_program(path):
            program = torch.export.load(clean)
        return program, hashlib.sha256(graph).hexdigest()


@contextmanager
def reading_program(path: Path) -> Iterator[None]:
    """Turn what torch says of a damaged program, errors of many kinds, into one about its file."""
    try:
        with quiet_torch():
            yield
    except Exception as error:
        raise FileError(
            f"{path} is not a readable file of torch.export.",
            "It is damaged, or another version of torch wrote it. Save it again with "
            "torch.export.save.",
        ) from error


def _rewrite(archive: Archive, path: Path) -> tuple[bytes, io.BytesIO]:
    """The text of the graph, and a new archive of all that is known to be harmless.

    Raises `Refused` where there is more, and `FileError` where something is missing.
    """
    names = _names_within(archive)
    for name in (GRAPH, f"{WEIGHTS}model_weights_config.json"):
        if name not in names:
            raise FileError(
                f"{path} is not a file of torch.export: it has no {name}.",
                "Save it with torch.export.save.",
            )
    if archive.entries[names[GRAPH]].size > GRAPH_BYTES:
        raise Refused("a graph of more than 16 MiB of text")
    if SAMPLE in names:
        _require_plain(archive[names[SAMPLE]])
    graph = archive[names[GRAPH]]
    buffer = io.BytesIO()
    limit = EXPANSION * path.stat().st_size + SLACK
    with zipfile.ZipFile(buffer, "w") as clean:
        # What torch asks of any archive; no input is kept, since torch would unpickle it.
        for name, content in (
            ("archive_format", "pt2"),
            ("archive_version", "0"),
            ("byteorder", "little"),
            (".data/version", "6\n"),
            (SAMPLE, ""),
        ):
            clean.writestr(f"model/{name}", content)
        clean.writestr(f"model/{GRAPH}", clean_graph(graph))
        for folder, pattern in ((WEIGHTS, WEIGHT), (CONSTANTS, CONSTANT)):
            kind = folder.split("/")[1]
            place = f"{folder}model_{kind}_config.json"
            text = archive[names[place]] if place in names else b'{"config": {}}'
            payloads = clean_payloads(text, pattern)
            limit -= _require_sizes(archive, names, folder, payloads)
            if limit < 0:
                raise Refused("tensors that are many times as large as the file")
            clean.writestr(f"model/{place}", json.dumps({"config": payloads}))
            for file in sorted({payload["path_name"] for payload in payloads.values()}):
                clean.writestr(f"model/{folder}{file}", archive[names[folder + file]])
    buffer.seek(0)
    return graph, buffer


def _require_plain(sample: bytes) -> None:
    """Raise `Refused` where the sample of an input is more than tensors.

    torch never gets it.
    """
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        file.write(sample)
        file.flush()
        try:
            read_torch(Path(file.name))
        except FileError as error:
            raise Refused("a sample that is not tensors alone") from error


def _names_within(archive: Archive) -> dict[str, str]:
    """Map the names of entries within the archive's one folder to their full names."""
    found = {}
    folders = set()
    for name in archive:
        folder, _, within = name.partition("/")
        folders.add(folder)
        if not ENTRY.fullmatch(within):
            raise Refused(name)
        found[within] = name
    if len(folders) > 1:
        raise Refused("several folders")
    return found


def _require_sizes(
    archive: Archive,
    names: Mapping[str, str],
    folder: str,
    payloads: Mapping[str, Mapping[str, Any]],
) -> int:
    """Count the bytes of all tensors.

    Raises `Refused` where a tensor is larger than what is stored of it.
    """
    total = 0
    for payload in payloads.values():
        meta, place = payload.get("tensor_meta") or {}, folder + payload.get("path_name", "")
        if place not in names or meta.get("dtype") not in SIZES or meta.get("layout") != 7:
            raise Refused("a tensor that is not stored, or of an unknown kind")
        item = SIZES[meta["dtype"]]
        sizes, strides = _integers(meta.get("sizes")), _integers(meta.get("strides"))
        (offset,) = _integers([meta.get("storage_offset")])
        if len(sizes) != len(strides):
            raise Refused("a tensor with more sizes than strides")
        numbers = math.prod(sizes)
        steps = zip(sizes, strides, strict=True)
        extent = offset + 1 + sum((size - 1) * stride for size, stride in steps) if numbers else 0
        stored = archive.entries[names[place]].size
        if max(numbers, extent) * item > stored or stored % item:
            raise Refused("a tensor that is larger than what is stored of it")
        total += numbers * item
    return total


def _integers(sizes: Any) -> list[int]:
    found = [size.get("as_int", -1) if isinstance(size, dict) else -1 for size in sizes or []]
    if any(number < 0 for number in found):
        raise Refused("a tensor whose size is not a number")
    return found


def _refusal(path: Path, what: str) -> FileError:
    return FileError(
        f"{path} holds more than operators of torch and tensors ({what[:80]}). It was not "
        "executed.",
        "Export the network alone, without custom operators and without the training around it.",
    )
