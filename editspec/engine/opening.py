"""From a spec or a path to weights, and to the architecture that they have."""

from __future__ import annotations

from pathlib import Path

from editspec.engine.resources import locate_weights
from editspec_compiler import LoadedSpec
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES, read_architecture
from editspec_runtime.io.digests import SAFETENSORS_DTYPES
from editspec_runtime.io.files import TensorInfo
from editspec_runtime.io.weights import Weights


def fetch_weights(loaded: LoadedSpec, progress: ProgressCallback = no_progress) -> Path:
    """The file of a spec's weights, fetched into the cache where they lie elsewhere."""
    model = loaded.spec.model
    task = f"fetching {model.weights.partition('#')[0]}"
    return locate_weights(
        model.weights,
        loaded.path.parent,
        pin=model.digest,
        progress=lambda done, total: progress(task, done, total),
    )


def open_checkpoint(
    loaded: LoadedSpec, progress: ProgressCallback = no_progress
) -> tuple[Weights, str]:
    """The weights of a spec and their digest.

    Raises
    ------
    WeightsError
        They are not those that the spec pins.
    FileError
        They are missing or damaged.
    """
    checkpoint = read_weights(fetch_weights(loaded, progress))
    base = checkpoint.digest()
    pin = loaded.spec.model.digest
    if pin is not None and not pin.startswith("sha256:") and pin != base:
        raise WeightsError(
            f"{loaded.weights} does not hold the weights that the spec pins: "
            f"expected {pin}, found {base}.",
            "Get the pinned weights, or change model.digest.",
        )
    return checkpoint, base


def known_architecture(checkpoint: Weights, path: Path, family: str | None = None) -> Architecture:
    """The architecture of a checkpoint, as of `family` or of the first family that it fits.

    Raises
    ------
    WeightsError
        It fits none: what was found, and what each family expects.
    """
    infos = {}
    for name, tensor in checkpoint.tensors.items():
        dtype = SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        infos[name] = TensorInfo(dtype, tuple(tensor.shape))
    if family is not None:
        return read_architecture(family, infos)
    reasons = []
    for name, known in FAMILIES.items():
        if known.read_architecture is None:
            continue
        try:
            return read_architecture(name, infos)
        except WeightsError as error:
            reasons.append(f"as {name}: {error.message}")
    raise WeightsError(
        f"{path} holds no weights of a family that editspec knows.\n" + "\n".join(reasons),
        "Give --family where you know better: it then says only what does not fit that one.",
    )
