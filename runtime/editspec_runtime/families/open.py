"""From a checkpoint to a generator that computes: family, precision, device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import EDITSPEC, Compatibility
from editspec_runtime.errors import DeviceError, WeightsError
from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.families.torch_module.network import ModuleGenerator
from editspec_runtime.families.torch_module.source import Source
from editspec_runtime.modalities.image.generator import Generator

NETWORKS: dict[str, type[StyleGAN2] | type[ProgressiveGAN]] = {
    "stylegan2": StyleGAN2,
    "proggan": ProgressiveGAN,
}


def make_generator(
    family: str,
    weights: Mapping[str, Tensor],
    *,
    precision: str = "float32",
    device: torch.device | None = None,
    truncation: float = 1.0,
    conventions: Compatibility = EDITSPEC,
    class_label: int | None = None,
    source: Source | None = None,
) -> Generator:
    """A generator of a family around a checkpoint's tensors, all of them brought to `precision` and
    `device`.

    `source` is the network of the family ``torch``.

    Raises `WeightsError` where the tensors do not fit the family, or truncation is asked for and
    the mean of w is missing.
    """
    dtype = getattr(torch, precision)
    weights = {
        n: t.to(device=device, dtype=dtype if t.is_floating_point() else t.dtype)
        for n, t in weights.items()
    }
    if family == "torch":
        assert source is not None
        generator: Generator = ModuleGenerator(weights, source)
    else:
        generator = NETWORKS[family](weights, truncation, conventions, class_label)
    if truncation != 1.0 and generator.architecture.average is None:
        raise WeightsError(
            "Truncation needs the mean of w, and these weights hold no latent_avg.",
            "Leave model.truncation out, or give a checkpoint with latent_avg.",
        )
    return generator


def pick_device(name: str) -> torch.device:
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:n``; on a GPU, with kernels that always
    give the same bits.

    Raises `DeviceError` where there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"There is no device {name!r}.", "Give auto, cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"This machine has no device {name}.", "Give --device cpu, or auto.")
        # By its number: torch.cuda.set_device takes no other.
        device = torch.device("cuda", device.index or 0)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    elif device.type != "cpu":
        raise DeviceError(
            f"{name} is no device that editspec computes on.", "Give auto, cpu, cuda or cuda:N."
        )
    return device
