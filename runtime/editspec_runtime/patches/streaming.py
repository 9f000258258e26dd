"""Apply a stack of patches to safetensors of any size, in one pass, part by part."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from editspec_runtime.errors import FileError, PatchError, WeightsError
from editspec_runtime.io.digests import Row, rows_digest
from editspec_runtime.io.files import canonical_json, open_output
from editspec_runtime.io.headers import TORCH_DTYPES, TensorInfo
from editspec_runtime.io.parts import EDITED
from editspec_runtime.io.shards import Stored, StoredFile
from editspec_runtime.io.weights import Container
from editspec_runtime.patches.parts_output import lay_out_parts
from editspec_runtime.patches.patch import Patch, hint_of_other_model, say_found
from editspec_runtime.patches.rounding import round_parameter

CHUNK = 2**16
"""Bytes that are read, hashed and written at a time; more are slower to write."""

WORKERS = min(4, os.cpu_count() or 1)
"""Tensors that are copied at a time.

Hashing takes longer than reading and writing, and one hash cannot be divided.
"""

NUMBERS = 2**17
"""Numbers of a parameter that are changed at a time, in float64."""

DTYPES = {stored: getattr(torch, name) for stored, name in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class Applied:
    """The effect of applying a stack, written or not.

    Attributes
    ----------
    base, result
        The digests of the weights before and after.
    changed
        The norm of each change relative to the norm of its parameter, by name.
    moved
        The share of the numbers of each parameter that are others as they are stored, by name.
    """

    base: str
    result: str
    changed: dict[str, float]
    moved: dict[str, float]


def apply_stored(
    weights: Stored,
    stack: Sequence[Patch],
    out: Path | None,
    metadata: Callable[[str, str], Mapping[str, object]],
    accept: Callable[[str, str], None],
    scale: float = 1.0,
    container: Container | None = None,
) -> Applied:
    """Apply a stack to stored weights in one pass, with the bits of `apply_stack`.

    Parameters
    ----------
    weights
        The weights; they are read once, and left as they are.
    stack
        The patches, in order.
    out
        A file for one file, a folder for several; None to write nothing. Of a folder of several
        models, only the one that patches change is written; all else is linked or copied.
    metadata
        From the digests of base and result to the metadata of the output, whose length must not
        depend on the digests.
    accept
        Called with the digests of base and result before anything gets its final name; raises to
        refuse.
    scale
        The factor by which the sum of all changes is multiplied.
    container
        The names around those of the model in the files. Default: none.

    Raises
    ------
    PatchError
        A parameter is missing or does not fit.
    WeightsError
        A parameter that changes is not of floating point numbers.
    FileError
        Something cannot be read or written.
    """
    container = container or Container()
    tensors = weights.tensors
    names = container.model_names(tensors)
    stored_names = {own: name for name, own in names.items()}
    _require_fit(stack, {own: tensors[name] for own, name in stored_names.items()})
    if weights.in_parts:
        _require_edited(stack)
    changes: dict[str, list[Patch]] = {}
    for patch in stack:
        for parameter in patch.parameters:
            changes.setdefault(stored_names[parameter], []).append(patch)
    run = _Run(names, changes, scale)
    # The digests are known at the end, and the header lies at the beginning: it is written with
    # digests of the same length first.
    placeholder = canonical_json(metadata("0" * 64, "0" * 64))
    with ThreadPoolExecutor(WORKERS) as pool, _output(weights, out) as place:
        for number, file in enumerate(weights.files):
            own = {"editspec": placeholder} if weights.index is None else {}
            path = place(file) if place else None
            with open_output(path) if path else nullcontext() as target:
                said_at = run.copy_file(pool, file, target, own)
                if number == len(weights.files) - 1:
                    accept(*run.digests())
                if target and said_at is not None:
                    target.seek(said_at)
                    target.write(json.dumps(canonical_json(metadata(*run.digests()))).encode())
        base, result = run.digests()
        if place and weights.index is not None:
            index_name, index_metadata = weights.index
            said = {**index_metadata, "editspec": canonical_json(metadata(base, result))}
            content = {"metadata": said, "weight_map": _weight_map(weights)}
            index = place(None, index_name)
            assert index is not None
            with open_output(index) as target:
                target.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    changed, moved = (dict(sorted(each.items())) for each in (run.changed, run.moved))
    return Applied(base, result, changed, moved)


def digest_stored(weights: Stored, container: Container) -> str:
    """The digest of the model in a container of stored weights, which are read once."""
    run = _Run(container.model_names(weights.tensors), {}, 1.0)
    with ThreadPoolExecutor(WORKERS) as pool:
        for file in weights.files:
            run.copy_file(pool, file, None, {})
    return run.digests()[0]


class _Run:
    """One pass over weights, and the digest rows and changes that it has found.

    Parameters
    ----------
    names
        The names of the model's tensors by their names in the files.
    changes
        The patches that change a tensor, by its name in the files.
    scale
        The factor of all changes.
    """

    def __init__(
        self, names: Mapping[str, str], changes: Mapping[str, Sequence[Patch]], scale: float
    ) -> None:
        self.names, self.changes, self.scale = names, changes, scale
        self.rows_before: list[Row] = []
        self.rows_after: list[Row] = []
        self.changed: dict[str, float] = {}
        self.moved: dict[str, float] = {}

    def digests(self) -> tuple[str, str]:
        """The digests of the weights so far, before and after."""
        return rows_digest(self.rows_before), rows_digest(self.rows_after)

    def copy_file(
        self,
        pool: ThreadPoolExecutor,
        file: StoredFile,
        target: BinaryIO | None,
        own: Mapping[str, str],
    ) -> int | None:
        """Copy a file with its changes to `target`; only hash it where `target` is None.

        `own` are metadata to add to the header. Returns where the text of ``editspec`` begins in
        it; None where there is none.
        """
        said_at: int | None = None
        into: Iterable[tuple[Path, int] | None] = repeat(None)
        if target:
            said_at, places = _write_header(target, file, own)
            into = [(Path(target.name), at) for at in places]
        passes = [self._change_of(name, info) for name, info in file.tensors.items()]
        hashes = pool.map(_copy_tensor, repeat(file), file.tensors, passes, into)
        for (name, info), (before, after) in zip(file.tensors.items(), hashes, strict=True):
            parameter = self.names.get(name)
            # Tensors beside the model are copied, and are not part of its digest.
            if parameter is not None:
                shape = list(info.shape)
                self.rows_before.append((parameter, info.dtype, shape, before))
                self.rows_after.append((parameter, info.dtype, shape, after))
        for change in passes:
            if change:
                self.changed[change.parameter] = change.relative()
                self.moved[change.parameter] = change.moved / change.total
        return said_at

    def _change_of(self, name: str, info: TensorInfo) -> _ParameterChange | None:
        """The change of a tensor by its name in the file; None where it stays as it is."""
        if name not in self.changes:
            return None
        return _ParameterChange(self.names[name], info, self.changes[name], self.scale)


class _ParameterChange:
    """The function from the bytes of a parameter to those after a stack, part by part."""

    def __init__(
        self, parameter: str, info: TensorInfo, stack: Sequence[Patch], scale: float
    ) -> None:
        self.parameter, self.stack, self.scale = parameter, stack, scale
        if info.dtype not in DTYPES:
            raise WeightsError(
                f"{parameter} holds {info.dtype} values, which editspec does not compute with.",
                "Save the model with dense tensors in float32, float16 or bfloat16.",
            )
        self.dtype: torch.dtype = DTYPES[info.dtype]
        if not self.dtype.is_floating_point:
            raise WeightsError(
                f"{parameter} holds {info.dtype} values, and a patch changes floating point "
                "numbers.",
                "Give the weights in float32, float16 or bfloat16.",
            )
        self.total, self.moved = max(1, torch.Size(info.shape).numel()), 0
        total = self.total
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
        if self.scale != 1.0:
            total = total * self.scale
        self.squares[0] += float(before.square().sum())
        self.squares[1] += float(total.square().sum())
        self.begin = end
        after = round_parameter(self.parameter, before + total, self.dtype)
        self.moved += int((after.double() != before).sum())
        return after.view(torch.uint8).numpy().data

    def relative(self) -> float:
        """The norm of the change over that of the parameter; 1 for a change of zeros."""
        before, change = self.squares
        if before:
            return float((change / before) ** 0.5)
        return float(change > 0)


def _weight_map(weights: Stored) -> dict[str, str]:
    """The file of each tensor that an index lists; of several models, of the edited one."""
    found: dict[str, str] = {}
    for file in weights.files:
        if not weights.in_parts or file.part == EDITED:
            found |= {file.name_in_file(name): file.path.name for name in file.tensors}
    return found


def _require_fit(stack: Sequence[Patch], tensors: Mapping[str, TensorInfo]) -> None:
    """Raise a `PatchError` unless every parameter of a stack is there and of its size."""
    for patch in stack:
        for parameter in patch.parameters:
            shape = tensors[parameter].shape if parameter in tensors else None
            numbers = patch.numbers(parameter)
            if shape is None or torch.Size(shape).numel() != numbers:
                raise PatchError(
                    f"{patch.title} changes {parameter} ({numbers} numbers), and these "
                    f"weights {say_found(shape)}.",
                    hint_of_other_model(patch),
                )


def _require_edited(stack: Sequence[Patch]) -> None:
    """Raise a `PatchError` where a stack changes another model of a folder than the edited one."""
    for patch in stack:
        others = [name for name in patch.parameters if not name.startswith(f"{EDITED}/")]
        if others:
            raise PatchError(
                f"{patch.title} changes {others[0]}, and of this model {EDITED}/ alone is edited.",
                "Do not use it; build it again.",
            )


@contextmanager
def _output(weights: Stored, out: Path | None) -> Iterator[Callable[..., Path | None] | None]:
    """The function from a file or a name to its output's place; None for no output.

    A folder gets its name at the end. What lies beside the weights in the folder that was given,
    such as a tokenizer, is copied.
    """
    if out is None:
        yield None
    elif weights.index is None and weights.folder is None:
        yield lambda file: out
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
        try:
            if weights.in_parts:
                yield lay_out_parts(weights, beside)
            else:
                for path in weights.beside():
                    shutil.copyfile(path, beside / path.name)
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
    """Write the header of a file.

    Returns where the text of ``editspec`` begins in it (None where there is none), and where the
    bytes of each tensor begin.
    """
    metadata = dict(file.metadata)
    metadata.pop("editspec", None)
    metadata.update(own)
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    places, place = [], 0
    for name, info in file.tensors.items():
        begin, end = file.offsets[name]
        header[file.name_in_file(name)] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [place, place + end - begin],
        }
        places.append(place)
        place += end - begin
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format wants the tensors to begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little") + text)
    # The tensors are written through other handles, which must not come before the header.
    target.flush()
    start = 8 + len(text)
    _reserve(target, start + place)
    said_at = None
    if own:
        mark = b'"editspec":'
        said_at = 8 + text.index(mark) + len(mark)
    return said_at, [start + place for place in places]


def _reserve(target: BinaryIO, size: int) -> None:
    """Take the room for a file at once."""
    # A full disk shows now, and writing takes half the time.
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(target.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _send_off(target: BinaryIO, begin: int, size: int) -> None:
    """Have the disk begin with what was written, and drop it from the system's cache."""
    # The disk works while the next tensor is hashed, and other files stay in the cache.
    target.flush()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(target.fileno(), begin, size, os.POSIX_FADV_DONTNEED)


def _copy_tensor(
    file: StoredFile, name: str, change: _ParameterChange | None, into: tuple[Path, int] | None
) -> tuple[str, str]:
    """Copy a tensor's bytes with their `change`, if any, to a place in a file.

    Returns the SHA-256 of the bytes before and after. Without a place, they are only hashed.
    """
    begin, end = file.offsets[name]
    before, after = hashlib.sha256(), hashlib.sha256()
    step = change.step if change else CHUNK
    buffer = memoryview(bytearray(min(step, end - begin)))
    # A handle each: several tensors are read and written at a time.
    path = file.path_of(name)
    with path.open("rb") as source, into[0].open("r+b") if into else nullcontext() as target:
        source.seek(begin)
        if target and into:
            target.seek(into[1])
        for at in range(begin, end, step):
            piece = buffer[: min(step, end - at)]
            if source.readinto(piece) != len(piece):
                raise FileError(
                    f"{path} became shorter while it was read.",
                    "Apply the patches again when nothing writes to it.",
                )
            before.update(piece)
            result = piece
            if change:
                result = change(piece)
                after.update(result)
            if target:
                target.write(result)
        if target and into:
            _send_off(target, into[1], end - begin)
    # Unchanged bytes are hashed once.
    return before.hexdigest(), (after if change else before).hexdigest()
