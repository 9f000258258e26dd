"""Checkpoints of any container -> safetensors, by the names that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from editspec.commands.inspect import known_architecture
from editspec.engine.outputs import WEIGHTS_FORMAT, require_own_or_free
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.families.checkpoints import read_checkpoint, weights_path
from editspec_runtime.io.files import write


def convert(
    weights: str,
    out: Path | str,
    family: str | None = None,
    *,
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Write the generator of a checkpoint as safetensors; what it is, as plain values.

    Names and digest stay as they are, so that patches fit both. `family` is found by the names of
    the tensors where it is not given.

    Raises
    ------
    FileError
        The checkpoint is missing or damaged, or something that editspec did not write lies at
        `out`.
    WeightsError
        It holds no generator of a known family.
    """
    path = weights_path(
        weights, Path(), progress=lambda done, total: progress("fetching", done, total)
    )
    out = Path(out)
    checkpoint = read_checkpoint(path)
    name = "torch" if family == "torch" else known_architecture(checkpoint, path, family).family
    require_own_or_free(out)
    digest = checkpoint.digest()
    metadata = checkpoint.metadata or {
        "format": WEIGHTS_FORMAT,
        "version": 1,
        "base": digest,
        "patches": [],
        "result": digest,
    }
    write(out, checkpoint.with_generator(checkpoint.generator, metadata).to_bytes())
    return {"out": str(out), "family": name, "tensors": len(checkpoint.generator), "digest": digest}
