"""``editspec convert``: checkpoints of any container as safetensors, or as plain ``.pt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.engine.opening import find_architecture
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.engine.weights_output import STREAMED, find_kind, plan_converted
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.io.outputs import WEIGHTS_FORMAT
from editspec_runtime.io.shards import read_stored
from editspec_runtime.patches.streaming import apply_stored


@dataclass(frozen=True)
class ConvertResult(CommandResult):
    """Converted weights: their path, family, number of tensors, and digest."""

    out: Path
    family: str
    tensors: int
    digest: str

    def to_text(self) -> str:
        """One line."""
        return f"{self.out}: {self.family}, {self.tensors} tensors, weights {self.digest}"


def convert(
    weights: str | Path,
    out: Path | str,
    family: str | None = None,
    *,
    progress: ProgressCallback = no_progress,
) -> ConvertResult:
    """Write the model of a checkpoint as safetensors, or as a plain checkpoint of torch.

    Names, digest and what is said of the weights stay as they are, so that patches fit both files.

    Parameters
    ----------
    weights
        A checkpoint of any container.
    out
        A file whose ending says its container: ``.safetensors`` or none, or ``.pt`` (``.pth``,
        ``.tar``, ``.ckpt``, ``.bin``), which holds tensors and mappings alone.
    family
        The family of the model. Default: found by the names of the tensors.
    progress
        A callback ``(task, done, total)`` that is called as weights are fetched.

    Raises
    ------
    UsageError
        The ending of `out` asks for what cannot be written.
    FileError
        The checkpoint is missing or damaged, or something that editspec did not write lies at
        `out`.
    WeightsError
        It holds no model of a known family.
    """
    path = locate_weights(
        str(weights), Path(), progress=lambda done, total: progress("fetching", done, total)
    )
    output = plan_converted(Path(out), path)
    output.require_free()
    checkpoint = read_weights(path)
    # The layers of some families are only known to their own code; any weights fit those.
    if family is None or family not in FAMILIES or FAMILIES[family].read_architecture is not None:
        family = find_architecture(checkpoint, path, family).family
    digest = checkpoint.digest()
    metadata = checkpoint.metadata or {
        "format": WEIGHTS_FORMAT,
        "version": 1,
        "base": digest,
        "patches": [],
        "result": digest,
    }
    if find_kind(path) in STREAMED and output.kind in STREAMED:
        stored, container = output.arrange(read_stored(path), checkpoint.container)
        apply_stored(stored, (), output.path, lambda *_: metadata, _accept, container=container)
    else:
        output.write(checkpoint.with_changes({}, metadata), {})
    return ConvertResult(output.path, family, len(checkpoint.tensors), digest)


def _accept(base: str, result: str) -> None:
    """Take whatever weights were read already."""
