"""Apply a stack of patches to weights of any size: one pass, a few MiB at a time, from safetensors
to safetensors.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from editspec_runtime.errors import FileError, PatchError, WeightsError
from editspec_runtime.families.checkpoints import generator_names
from editspec_runtime.io.digests import SAFETENSORS_DTYPES, Row, rows_digest
from editspec_runtime.io.files import TensorInfo, canonical_json, writing
from editspec_runtime.io.shards import Stored, StoredFile
from editspec_runtime.patches.patch import Patch, stored_as

CHUNK = 2**16
"""Bytes that are read, hashed and written at a time; more are slower to write."""

WORKERS = min(4, os.cpu_count() or 1)
"""Tensors that are copied at a time: hashing takes longer than reading and writing, and one hash
cannot be divided.
"""

NUMBERS = 2**17
"""Numbers of a parameter that are changed at a time, in float64."""

DTYPES = {name: getattr(torch, dtype) for dtype, name in SAFETENSORS_DTYPES.items()}


@dataclass(frozen=True)
class Applied:
    """What applying a stack did (or, dry, would do).

    Attributes
    ----------
    base, result
        The digests of the weights before and after.
    changed
        For each parameter that changes the norm of its change relative to its own.
    """

    base: str
    result: str
    changed: dict[str, float]


def apply_stored(
    weights: Stored,
    stack: Sequence[Patch],
    out: Path | None,
    metadata: Callable[[str, str], Mapping[str, object]],
    accept: Callable[[str, str], None],
    scale: float = 1.0,
) -> Applied:
    """Apply a stack to stored weights in one pass, as `apply_stack` does it to tensors in memory.

    Parameters
    ----------
    weights
        The weights; they are read once, and left as they are.
    stack
        The patches, in order.
    out
        A file for one file, a folder for several; None to write nothing.
    metadata
        From the digests of base and result to what the output says of itself; of the same length
        whatever they are.
    accept
        Called with the digests of base and result before anything gets its final name; raises to
        refuse.
    scale
        By which the sum of all changes is multiplied.

    Raises
    ------
    PatchError
        A parameter is missing or does not fit.
    WeightsError
        A parameter that changes is not of floating point numbers.
    FileError
        Something cannot be read or written.
    """
    tensors = {name: info for file in weights.files for name, info in file.tensors.items()}
    names = generator_names(tensors)
    stored_names = {own: name for name, own in names.items()}
    _require_fit(stack, {own: tensors[name] for own, name in stored_names.items()})
    changes = {
        stored_names[parameter]: [patch for patch in stack if parameter in patch.parameters]
        for parameter in {parameter for patch in stack for parameter in patch.parameters}
    }
    rows: tuple[list[Row], list[Row]] = ([], [])
    changed: dict[str, float] = {}
    placeholder = canonical_json(metadata("0" * 64, "0" * 64))

    def digests() -> tuple[str, str]:
        return rows_digest(rows[0]), rows_digest(rows[1])

    with ThreadPoolExecutor(WORKERS) as pool, _output(weights, out) as place:
        for number, file in enumerate(weights.files):
            own = {"editspec": placeholder} if weights.index is None else {}
            passes = [
                _Changed(names[name], info, changes[name], scale) if name in changes else None
                for name, info in file.tensors.items()
            ]
            with writing(place(file)) if place else nullcontext() as target:
                said_at, places = _write_header(target, file, own) if target else (None, [])
                into = [(Path(target.name), at) for at in places] if target else repeat(None)
                hashes = pool.map(_copied, repeat(file), file.tensors, passes, into)
                for (name, info), pair in zip(file.tensors.items(), hashes, strict=True):
                    if (parameter := names.get(name)) is not None:
                        for list_, hash_ in zip(rows, pair, strict=True):
                            list_.append((parameter, info.dtype, list(info.shape), hash_))
                changed |= {pass_.parameter: pass_.relative() for pass_ in passes if pass_}
                if number == len(weights.files) - 1:
                    accept(*digests())
                if target and said_at is not None:
                    target.seek(said_at)
                    target.write(json.dumps(canonical_json(metadata(*digests()))).encode())
        base, result = digests()
        if place and weights.index is not None:
            index_name, index_metadata = weights.index
            said = {**index_metadata, "editspec": canonical_json(metadata(base, result))}
            weight_map = {name: file.path.name for file in weights.files for name in file.tensors}
            content = {"metadata": said, "weight_map": weight_map}
            with writing(place(None, index_name)) as target:
                target.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    return Applied(base, result, dict(sorted(changed.items())))


class _Changed:
    """Turns the bytes of a parameter into those after a stack, part by part."""

    def __init__(
        self, parameter: str, info: TensorInfo, stack: Sequence[Patch], scale: float
    ) -> None:
        self.parameter, self.stack, self.scale = parameter, stack, scale
        self.dtype: torch.dtype = DTYPES[info.dtype]
        if not self.dtype.is_floating_point:
            raise WeightsError(
                f"{parameter} holds {info.dtype} values, and a patch changes floating point numbers."
            )
        total = max(1, torch.Size(info.shape).numel())
        # Factors give whole rows only; numbers of a full change can be asked for one by one.
        self.row = max(1, total // min(patch.rows(parameter) for patch in stack))
        self.begin, self.squares = 0, [0.0, 0.0]

    @property
    def step(self) -> int:
        """Bytes that are changed at a time: whole rows."""
        return self.row * max(1, NUMBERS // self.row) * self.dtype.itemsize

    def __call__(self, piece: memoryview) -> memoryview:
        before = torch.frombuffer(piece, dtype=self.dtype).double()
        end = self.begin + len(before)
        total: Tensor | None = None
        for patch in self.stack:
            change = patch.part(self.parameter, self.begin, end)
            total = change if total is None else total + change
        assert total is not None
        total = total * self.scale if self.scale != 1.0 else total
        self.squares[0] += float(before.square().sum())
        self.squares[1] += float(total.square().sum())
        self.begin = end
        after = stored_as(self.parameter, before + total, self.dtype)
        return after.view(torch.uint8).numpy().data

    def relative(self) -> float:
        return (
            float((self.squares[1] / self.squares[0]) ** 0.5)
            if self.squares[0]
            else float(self.squares[1] > 0)
        )


def _require_fit(stack: Sequence[Patch], tensors: Mapping[str, TensorInfo]) -> None:
    for patch in stack:
        for parameter in patch.parameters:
            shape = list(tensors[parameter].shape) if parameter in tensors else None
            numbers = patch.numbers(parameter)
            if shape is None or torch.Size(shape).numel() != numbers:
                found = "lack it" if shape is None else f"have {shape}"
                raise PatchError(
                    f"Patch {patch.name} changes {parameter} ({numbers} numbers), and these weights {found}."
                )


@contextmanager
def _output(weights: Stored, out: Path | None) -> Iterator[Callable[..., Path] | None]:
    """Where the files go: a function of the file (or a name); the folder of several gets its name
    at the end.
    """
    if out is None:
        yield None
    elif weights.index is None:
        yield lambda file: out
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
        try:
            yield lambda file, name=None: beside / (name or file.path.name)
            beside.chmod(0o755)
            if out.exists():
                # No call replaces one folder by another: the old one steps aside first.
                old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
                out.rename(old / out.name)
                beside.rename(out)
                shutil.rmtree(old)
            else:
                beside.rename(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _write_header(
    target: BinaryIO, file: StoredFile, own: Mapping[str, str]
) -> tuple[int | None, list[int]]:
    """Write the header of a file; where the text of ``editspec`` in it begins, and the bytes of
    each tensor.
    """
    metadata = {**{name: text for name, text in file.metadata.items() if name != "editspec"}, **own}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    places, place = [], 0
    for name, info in file.tensors.items():
        begin, end = file.spans[name]
        header[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [place, place + end - begin],
        }
        places.append(place)
        place += end - begin
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little") + text)
    # What is written at other places is written through other handles.
    target.flush()
    _reserve(target, 8 + len(text) + place)
    said_at = 8 + text.index(b'"editspec":') + len(b'"editspec":') if own else None
    return said_at, [8 + len(text) + place for place in places]


def _reserve(target: BinaryIO, size: int) -> None:
    """Take the room for a file at once: a full disk shows now, and writing takes half the time."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(target.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _send_off(target: BinaryIO, begin: int, size: int) -> None:
    """Have the disk begin with what was written, while the next tensor is hashed; and not crowd out
    other caches.
    """
    target.flush()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(target.fileno(), begin, size, os.POSIX_FADV_DONTNEED)


def _copied(
    file: StoredFile, name: str, change: _Changed | None, into: tuple[Path, int] | None
) -> tuple[str, str]:
    """Copy a tensor's bytes, changed or not, to a place in a file; the SHA-256 of them before and
    after.
    """
    begin, end = file.spans[name]
    before, after = hashlib.sha256(), hashlib.sha256()
    step = change.step if change else CHUNK
    buffer = memoryview(bytearray(min(step, end - begin)))
    # A handle each: several tensors are read and written at a time.
    with file.path.open("rb") as source, into[0].open("r+b") if into else nullcontext() as target:
        source.seek(begin)
        if target and into:
            target.seek(into[1])
        for at in range(begin, end, step):
            piece = buffer[: min(step, end - at)]
            if source.readinto(piece) != len(piece):
                raise FileError(f"{file.path} became shorter while it was read.")
            before.update(piece)
            result = piece
            if change:
                result = change(piece)
                after.update(result)
            if target:
                target.write(result)
        if target and into:
            _send_off(target, into[1], end - begin)
    return before.hexdigest(), (after if change else before).hexdigest()
