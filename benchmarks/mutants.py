"""Seeded mutants of bytes, of JSON, of pickles, and of the content of safetensors files."""

from __future__ import annotations

import copy
import json
import pickletools
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.files import safetensors_bytes

NUMBERS = [0, 1, -1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 10**30, 10**400]
TOKENS = [
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"1e999",
    b"\x00",
    b"\x1b[31m",
]
TOKENS += [
    b"[" * 300,
    b'{"a":' * 300,
    b"\xff",
    b"..",
    b"../../x",
    b"*a",
    b"&a",
    b"!!python/name:os",
]


def mutate(seed: bytes, draw: random.Random) -> bytes:
    """A file that differs from another one in one to four places."""
    data = bytearray(seed)
    for _ in range(draw.randint(1, 4)):
        if not data:
            break
        at = draw.randrange(len(data))
        kind = draw.randrange(8)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + draw.randint(1, 64)]
        elif kind == 3:
            piece = data[at : at + draw.randint(1, 64)]
            data[at:at] = piece * draw.choice([1, 2, 50])
        elif kind == 4:
            size = draw.choice(["<B", "<H", "<I", "<Q"])
            number = draw.choice(NUMBERS[:-2]) % 2 ** (8 * struct.calcsize(size))
            data[at : at + struct.calcsize(size)] = struct.pack(size, number)
        elif kind == 5:
            data[at:at] = draw.choice(TOKENS)
        elif kind == 6:
            _replace_number(data, at, draw)
        else:
            other = draw.randrange(len(data))
            data[at : at + 16], data[other : other + 16] = (
                data[other : other + 16],
                data[at : at + 16],
            )
    return bytes(data)


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, 10**40, 1e308, -0.5, "", "\x1b[31m", "../x", "a" * 300, [], {}, [[]],
    {"": None}, "9" * 400,
)  # fmt: skip
"""Values that stand where others are expected."""


def mutate_structure(seed: bytes, draw: random.Random) -> bytes:
    """A JSON text in which values are swapped, doubled, nested, left out or of other types."""
    content = json.loads(seed)
    for _ in range(draw.randint(1, 3)):
        places = list(_places(content))
        if not places:
            return json.dumps(draw.choice(ODD)).encode()
        parent, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind == 0:
            parent[key] = draw.choice(ODD)
        elif kind == 1:
            other, other_key = draw.choice(places)
            parent[key], other[other_key] = copy.deepcopy((other[other_key], parent[key]))
        elif kind == 2:
            for _ in range(draw.choice([1, 3, 90])):
                parent[key] = draw.choice([[parent[key]], {"a": parent[key]}])
        elif kind == 3 and isinstance(parent[key], list):
            parent[key] = parent[key] * draw.choice([2, 50])
        elif kind == 4 and isinstance(parent, dict):
            parent[draw.choice(["", "x", f"{key} "])] = parent.pop(key)
        else:
            del parent[key]
    return json.dumps(content).encode()


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """All places of values in a content: what holds a value, and its key or number."""
    waiting = [content]
    while waiting:
        parent = waiting.pop()
        if not isinstance(parent, dict | list):
            continue
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        for key in keys:
            yield parent, key
            waiting.append(parent[key])


def mutate_pickle(seed: bytes, draw: random.Random) -> bytes:
    """A pickle in which operations are doubled, swapped, left out, or take another object."""
    places = [place for _, _, place in pickletools.genops(seed)]
    pieces = [seed[a:b] for a, b in zip(places, [*places[1:], len(seed)], strict=True)]
    for _ in range(draw.randint(1, 3)):
        at, other = draw.randrange(len(pieces)), draw.randrange(len(pieces))
        kind = draw.randrange(5)
        if kind == 0:
            pieces[at] = pieces[at] * draw.choice([2, 50])
        elif kind == 1:
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif kind == 2:
            pieces[at] = b""
        elif kind == 3:
            pieces[at:at] = pieces[min(at, other) : min(at, other) + 40] * draw.choice([1, 30])
        else:
            pieces[at] = b"h" + bytes([draw.randrange(256)])
    return b"".join(pieces)


def mutate_any(seed: bytes, draw: random.Random) -> bytes:
    """A mutant of the structure where a file has one that is known here, or of the bytes."""
    if draw.random() < 0.5:
        return mutate(seed, draw)
    try:
        if seed[:1] in b"{[":
            return mutate_structure(seed, draw)
        if seed[:1] == b"\x80":
            return mutate_pickle(seed, draw)
    except (ValueError, IndexError):
        pass
    return mutate(seed, draw)


def _replace_number(data: bytearray, at: int, draw: random.Random) -> None:
    """Put an odd number in the place of the next one in a text."""
    digits = b"0123456789"
    while at < len(data) and data[at] not in digits:
        at += 1
    end = at
    while end < len(data) and data[end] in digits:
        end += 1
    data[at:end] = str(draw.choice(NUMBERS)).encode()


def mutate_content(seed: bytes, draw: random.Random) -> bytes:
    """A safetensors file of ours with another content, whole in all that can be computed anew.

    Lengths, offsets and the digest of the content are those of the new content, so that no check of
    damage stands before the checks of the content.
    """
    metadata, tensors = _take_apart(seed)
    for _ in range(draw.randint(1, 2)):
        if draw.random() < 0.5:
            changed = json.loads(mutate_structure(json.dumps(metadata).encode(), draw))
            metadata = changed if isinstance(changed, dict) else metadata
        else:
            draw.choice(TENSOR_CHANGES)(tensors, draw)
    if "content" in metadata:
        del metadata["content"]
        content = {"metadata": metadata, "tensors": tensors_digest(tensors)}
        metadata["content"] = digest(content)
    return safetensors_bytes(tensors, metadata)


def _take_apart(file: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file of ours."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    return json.loads(header["__metadata__"]["editspec"]), load(file)


def _reshape(tensors: dict[str, Tensor], draw: random.Random) -> None:
    """Give a tensor another number of axes, or of numbers along one."""
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    kind = draw.randrange(5)
    if kind == 0:
        tensors[name] = tensor.unsqueeze(draw.randint(0, tensor.ndim))
    elif kind == 1:
        tensors[name] = tensor.flatten()
    elif kind == 2:
        tensors[name] = tensor.flatten()[:1].reshape(())
    elif kind == 3 and tensor.ndim:
        tensors[name] = tensor[: draw.randrange(len(tensor) + 1)]
    elif tensor.ndim:
        tensors[name] = torch.cat([tensor] * draw.choice([2, 9]), draw.randrange(tensor.ndim))


DTYPES = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64)


def _cast(tensors: dict[str, Tensor], draw: random.Random) -> None:
    """Give a tensor another type."""
    name = draw.choice(sorted(tensors))
    tensors[name] = tensors[name].real.float().to(draw.choice(DTYPES))


def _change_numbers(tensors: dict[str, Tensor], draw: random.Random) -> None:
    """Put an odd number somewhere in a tensor, or multiply all of it."""
    name = draw.choice(sorted(tensors))
    tensor = tensors[name].clone()
    if not tensor.is_floating_point() or not tensor.numel() or tensor.itemsize == 1:
        return
    odd = [0.0, -1.0, 1e-40, 6e4, float("nan"), float("inf")]
    if draw.random() < 0.5:
        tensor *= draw.choice(odd[:4])
    else:
        tensor.view(-1)[draw.randrange(tensor.numel())] = draw.choice(odd)
    tensors[name] = tensor


def _rename(tensors: dict[str, Tensor], draw: random.Random) -> None:
    """Leave a tensor out, double it, or let it take the name of another."""
    name, other = draw.choice(sorted(tensors)), draw.choice(sorted(tensors))
    odd = [f"{name}.x", f"0{name}", f"-{name}", "x", "٠.key", "D.0", "7.key", other, "\x1b[31m.D"]
    kind = draw.randrange(3)
    if kind == 0 and len(tensors) > 1:
        del tensors[name]
    elif kind == 1:
        tensors[draw.choice(odd)] = tensors[name].clone()
    elif kind == 2:
        tensors[draw.choice(odd)] = tensors.pop(name)


TENSOR_CHANGES: tuple[Callable[[dict[str, Tensor], random.Random], None], ...] = (
    _reshape, _cast, _change_numbers, _rename,
)  # fmt: skip
