"""``editspec render``: pictures of what edits do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.resolve import values_alone
from editspec_runtime.families.checkpoints import (
    Checkpoint,
)
from editspec_runtime.families.open import make_generator
from editspec_runtime.io.files import (
    write,
)
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

if TYPE_CHECKING:
    from PIL import Image
from editspec.engine.outputs import require_free_picture
from editspec.engine.session import BuildSession, context_direction
from editspec_runtime.core.progress import ProgressCallback, no_progress


def render(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    show: Literal["edits", "value", "key"] = "edits",
    count: int = 16,
    seed: int = 3,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> None:
    """A picture of what the edits of a spec do, or of what they are made of.

    Parameters
    ----------
    show
        ``edits``: `count` images of the latent stream `seed`, before and after all edits.
        ``value``: for every edit the images that its values come from, and what each value draws
        alone (paper Fig. 2d). ``key``: for every edit the `count` images of the stream in which the
        key of its context matches best, lit where it does (Fig. 2c).
    """
    from editspec.modalities.image.pictures import before_and_after, png_bytes

    out = Path(out)
    require_free_picture(out)
    session = BuildSession.of(spec, device, progress)
    if show != "edits":
        write(out, png_bytes(_memory_picture(session, show, count, seed)))
        return
    before = session.generator()
    for number in range(len(session.loaded.spec.edits)):
        session.edit(number)
    stream = LatentStream(
        seed, before.architecture.latent_size, session.loaded.spec.latents.sampler
    )
    latents = stream.items(range(count)).to(before.weight(session.loaded.spec.edits[0].layer))
    images = _drawn(before, latents), _drawn(session.generator(), latents)
    write(out, png_bytes(before_and_after(*images)))


def drawn_by(checkpoint: Checkpoint, path: Path, count: int, seed: int = 3) -> Tensor:
    """Images [count, 3, size, size] of the latent stream `seed` as a checkpoint's generator draws
    them, on the CPU.

    Raises `WeightsError` where it is of no family.
    """
    from editspec.commands.inspect import known_architecture

    family = known_architecture(checkpoint, path).family
    generator = make_generator(family, checkpoint.generator)
    latents = LatentStream(seed, generator.architecture.latent_size).items(range(count))
    return _drawn(generator, generator.fitted(latents))


def _memory_picture(
    session: BuildSession, show: Literal["value", "key"], count: int, seed: int
) -> Image.Image:
    """Values or keys of every edit, each on the model as the edits before left it."""
    from editspec.modalities.image.pictures import before_and_after, spotlight, stacked
    from editspec.views.key_value import drawn_alone, matches

    pictures, loaded = [], session.loaded
    for number, edit in enumerate(loaded.spec.edits):
        generator = session.generator()

        def moment(generator: Generator = generator, layer: str = edit.layer) -> Tensor:
            return session.second_moment(generator, layer).matrix

        if show == "value":
            values = values_alone(loaded, number, generator, moment)
            images = drawn_alone(generator, edit.layer, values)
            labels = ("image", "value")
        else:
            direction = context_direction(session, number, generator)
            stream = LatentStream(
                seed, generator.architecture.latent_size, loaded.spec.latents.sampler
            )
            found, light, _ = matches(
                generator, edit.layer, direction, stream, count, session.conventions
            )
            images, labels = (found, spotlight(found, light)), ("image", "match")
        above, below = (batch.float().cpu() for batch in images)
        pictures.append(before_and_after(above, below, labels))
        if number < len(loaded.spec.edits) - 1:
            session.edit(number)
    return stacked(pictures)


@torch.no_grad()
def _drawn(generator: Generator, latents: Tensor) -> Tensor:
    """The images of `latents`, one at a time: under the authors' conventions a batch would change
    them.
    """
    return torch.cat([generator.images(latent[None]) for latent in latents]).float().cpu()
