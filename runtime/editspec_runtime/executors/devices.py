"""The device that computes, and kernels whose bits are reproducible."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import torch

from editspec_runtime.errors import DeviceError
from editspec_runtime.maths.parallel import unshared_operations


def pick_device(name: str) -> torch.device:
    """Pick the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` names.

    A GPU is returned with its number. Raises `DeviceError` if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f'There is no device "{name}".', "Give auto, cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"This machine has no device {name}.", "Give --device cpu, or auto.")
        # torch.cuda.set_device takes only a GPU with its number.
        return torch.device("cuda", device.index or 0)
    if device.type != "cpu":
        raise DeviceError(
            f"{name} is not a device that editspec computes on.", "Give auto, cpu, cuda or cuda:N."
        )
    return device


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process sees."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return named.split(",")
    return [str(number) for number in range(torch.cuda.device_count())]


@dataclass
class _Flags:
    """The flags of torch's kernels before the first of several blocks began."""

    lock: Lock = field(default_factory=Lock)
    blocks: int = 0
    before: tuple[bool, ...] = ()


_FLAGS = _Flags()


@contextmanager
def reproducible_kernels(device: torch.device) -> Iterator[None]:
    """Make kernels reproducible inside the block, those of a GPU in full float32.

    On the CPU, each operation is computed by one thread. It is so for a GPU, too, as some work of
    an edit is done on the CPU whatever the device is.

    The flags of torch belong to the whole process. They are restored when the last block of all
    threads has ended.
    """
    with unshared_operations():
        if device.type != "cuda":
            yield
            return
        with _flags_of_a_gpu():
            yield


@contextmanager
def _flags_of_a_gpu() -> Iterator[None]:
    """Set the flags of torch's kernels inside the block."""
    with _FLAGS.lock:
        if not _FLAGS.blocks:
            _FLAGS.before = _exchange_flags((True, False, False, False))
        _FLAGS.blocks += 1
    try:
        yield
    finally:
        with _FLAGS.lock:
            _FLAGS.blocks -= 1
            if not _FLAGS.blocks:
                _exchange_flags(_FLAGS.before)


def _exchange_flags(flags: tuple[bool, ...]) -> tuple[bool, ...]:
    """Set the flags of torch's kernels, and return their values from before.

    The flags are, in order: deterministic and benchmark of cuDNN, TF32 of cuDNN, TF32 of products.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = flags
    return before
