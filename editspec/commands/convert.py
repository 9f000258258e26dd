"""``editspec convert``: checkpoints of any container as safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.engine.opening import find_architecture
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import WEIGHTS, WEIGHTS_FORMAT


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
    """Write the model of a checkpoint as safetensors.

    Names and digest stay as they are, so that patches fit both files. `family` is found by the
    names of the tensors where it is not given.

    Raises
    ------
    FileError
        The checkpoint is missing or damaged, or something that editspec did not write lies at
        `out`.
    WeightsError
        It holds no model of a known family.
    """
    path = locate_weights(
        str(weights), Path(), progress=lambda done, total: progress("fetching", done, total)
    )
    out = Path(out)
    checkpoint = read_weights(path)
    # The layers of some families are only known to their own code; any weights fit those.
    if family is None or family not in FAMILIES or FAMILIES[family].read_architecture is not None:
        family = find_architecture(checkpoint, path, family).family
    WEIGHTS.require_free(out)
    digest = checkpoint.digest()
    metadata = checkpoint.metadata or {
        "format": WEIGHTS_FORMAT,
        "version": 1,
        "base": digest,
        "patches": [],
        "result": digest,
    }
    write(out, checkpoint.with_changes({}, metadata).to_bytes())
    return ConvertResult(out, family, len(checkpoint.tensors), digest)
