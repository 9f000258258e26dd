"""``editspec convert``: checkpoints as safetensors or plain ``.pt``, foreign models as folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from editspec.engine.opening import find_architecture
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.engine.weights_output import STREAMED, find_kind, plan_converted
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.families.foreign import ForeignModel, find_importer, write_folder
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES, read_architecture
from editspec_runtime.io.files import require_file
from editspec_runtime.io.outputs import WEIGHTS_FOLDER, WEIGHTS_FORMAT, require_folder_name
from editspec_runtime.io.shards import read_stored
from editspec_runtime.patches.streaming import apply_stored


@dataclass(frozen=True)
class ConvertResult(CommandResult):
    """Converted weights.

    Attributes
    ----------
    out, family, tensors, digest
        Their path, family, number of tensors, and digest.
    quantised
        The kinds of quantised numbers that they were made of; empty where there were none.
    """

    out: Path
    family: str
    tensors: int
    digest: str
    quantised: tuple[str, ...] = ()

    def to_text(self) -> str:
        """One line, and another where the numbers were quantised."""
        line = f"{self.out}: {self.family}, {self.tensors} tensors, weights {self.digest}"
        if not self.quantised:
            return line
        kinds = ", ".join(self.quantised)
        return f"{line}\nits numbers were quantised ({kinds}), and are what that left of them"


def convert(
    weights: str | Path,
    out: Path | str,
    family: str | None = None,
    *,
    progress: ProgressCallback = no_progress,
) -> ConvertResult:
    """Write the model of a checkpoint as safetensors, or as a plain checkpoint of torch.

    Names, digest and what is said of the weights stay as they are, so that patches fit both files.
    A model that another program keeps in one file (``.gguf``) becomes a folder.

    Parameters
    ----------
    weights
        A checkpoint of any container, or a model of another program.
    out
        A file whose ending says its container: ``.safetensors`` or none, or ``.pt`` (``.pth``,
        ``.tar``, ``.ckpt``, ``.bin``), which holds tensors and mappings alone. A folder, where
        `weights` is a model of another program.

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
    importer = find_importer(path)
    if importer is not None:
        return _import(importer, path, Path(out), progress)
    output = plan_converted(Path(out), path)
    output.require_free()
    checkpoint = read_weights(path)
    # The layers of some families are only known to their own code; any weights fit those.
    if family is None or family not in FAMILIES or FAMILIES[family].read_architecture is not None:
        family = find_architecture(checkpoint, path, family).family
    digest = checkpoint.digest()
    metadata = checkpoint.metadata or _metadata(digest)
    if find_kind(path) in STREAMED and output.kind in STREAMED:
        stored, container = output.arrange(read_stored(path), checkpoint.container)
        apply_stored(stored, (), output.path, lambda *_: metadata, _accept, container=container)
    else:
        output.write(checkpoint.with_changes({}, metadata), {})
    return ConvertResult(output.path, family, len(checkpoint.tensors), digest)


def _import(
    importer: Callable[[Path], ForeignModel], path: Path, out: Path, progress: ProgressCallback
) -> ConvertResult:
    """Write a model of another program as a folder."""
    require_folder_name(out)
    WEIGHTS_FOLDER.require_free(out)
    require_file(path)
    model = importer(path)
    with TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as place:
        folder = Path(place)
        write_folder(folder, model, lambda done, total: progress("converting", done, total))
        read_architecture(model.family, read_stored(folder).tensors, folder)
        applied = apply_stored(
            read_stored(folder), (), out, lambda base, _: _metadata(base), _accept
        )
    return ConvertResult(out, model.family, model.count, applied.base, model.quantised)


def _metadata(digest: str) -> dict[str, object]:
    """The metadata of weights without patches."""
    return {
        "format": WEIGHTS_FORMAT,
        "version": 1,
        "base": digest,
        "patches": [],
        "result": digest,
    }


def _accept(base: str, result: str) -> None:
    """Take whatever weights were read already."""
