"""``editspec.open``: the model of a spec or of a file of weights, in Python."""

from __future__ import annotations

from pathlib import Path

from editspec.engine.modality_registry import engine_of
from editspec.engine.named_model import is_spec
from editspec.engine.opened import OpenedModel
from editspec.engine.opening import open_weights
from editspec.engine.resources import locate_weights
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.families.open import read_weights


def open(
    spec: Path | str | LoadedSpec,
    *,
    family: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> OpenedModel:
    """Open the unedited model of a spec, or of a file of weights.

    The result takes patches (`with_patches`). That of a generator of images draws, too (`images`).

    Parameters
    ----------
    spec
        A spec; or weights: ``builtin:skyline``, or the path of a checkpoint.

    Raises
    ------
    SpecError
        The spec is wrong.
    EditError
        The weights are wrong.
    """
    if is_spec(spec):
        session = BuildSession.of(spec, device, progress, needs_edits=False)
        opened = OpenedModel(
            session.current_model(),
            session.checkpoint,
            session.loaded.weights,
            precision=session.loaded.spec.precision,
        )
        return session.modality.open_model(opened, session.loaded)
    place = locate_weights(
        str(spec), Path(), progress=lambda done, total: progress("fetching", done, total)
    )
    checkpoint = read_weights(place)
    model = open_weights(checkpoint, place, family, device=pick_device(device))
    return engine_of(model.architecture.family).open_model(
        OpenedModel(model, checkpoint, place), None
    )
