"""Pictures of prompts, drawn by the library with the matrices of a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.engine.model_session import ModelSession
from editspec_compiler.modalities.text_to_image.schema import Drawn, prompt_spec
from editspec_runtime.errors import FileError
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.parts import EDITED, read_model_index

EXTRA = "diffusion"

LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a folder that take no part in drawing a prompt."""


@dataclass(frozen=True)
class Pictures:
    """The pipeline of a model, which draws with any of its edited matrices.

    Attributes
    ----------
    folder
        The folder of the model.
    how
        How pictures are drawn.
    device
        The device that draws.
    on_step
        Is called after each step of a picture; what it raises ends the drawing.
    """

    folder: Path
    how: Drawn
    device: torch.device
    on_step: Callable[[], None] = lambda: None

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline of the library.

        Raises `FileError` where it cannot be made of the folder.
        """
        library = load_extra(EXTRA)
        for own in (load_extra(EXTRA, "utils.logging"), _logging_of_encoders()):
            own.disable_progress_bar()
        index = read_model_index(self.folder)
        left_out: dict[str, Any] = {name: None for name in LEFT_OUT if name in index}
        if not any(index.get("vae") or ()):
            left_out["vae"] = None
        if "requires_safety_checker" in index:
            left_out |= {"requires_safety_checker": False}
        try:
            made = library.DiffusionPipeline.from_pretrained(
                str(self.folder), local_files_only=True, **left_out
            )
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise FileError(
                f"{self.folder} cannot be opened as a pipeline that draws.",
                "Get the whole folder again: scheduler, vae and all that model_index.json names.",
            ) from error
        made.set_progress_bar_config(disable=True)
        return made.to(self.device, torch.float32)

    @torch.no_grad()
    def draw(
        self,
        weights: Mapping[str, Tensor],
        prompts: Sequence[str],
        seeds: Sequence[int],
        progress: Callable[[int, int], None] = lambda done, total: None,
        how: Drawn | None = None,
    ) -> Tensor:
        """Draw prompts with the matrices that `weights` hold.

        The noise of a picture follows from its seed alone. `how` stands for that of the pipeline.

        Returns
        -------
        Tensor
            [n, 3, height, width] in -1..1, float32, on the CPU.
        """
        pipeline = self.pipeline
        for name, parameter in pipeline.unet.named_parameters():
            own = weights.get(f"{EDITED}/{name}")
            if own is not None:
                parameter.copy_(own)
        drawn = []
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            progress(number, len(prompts))
            drawn.append(self._draw_one(prompt, seed, how or self.how))
        progress(len(prompts), len(prompts))
        return torch.cat(drawn)

    def _draw_one(self, prompt: str, seed: int, how: Drawn) -> Tensor:
        def note_step(pipeline: Any, step: int, time: Any, tensors: Any) -> Any:
            """Tell of a step in the form that the library asks for."""
            self.on_step()
            return tensors

        pipeline = self.pipeline
        generator = torch.Generator().manual_seed(seed)
        size = pipeline.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        shape = (1, pipeline.unet.config.in_channels, height, width)
        noise = torch.randn(shape, generator=generator).to(self.device)
        whole = pipeline.vae is not None
        result = pipeline(
            prompt,
            latents=noise,
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            callback_on_step_end=note_step,
            generator=generator,
            output_type="pt" if whole else "latent",
        )
        images: Tensor = result.images.float().cpu()
        # The library gives 0..1 behind a decoder; a model without one draws pixels in -1..1.
        return 2 * images.clamp(0, 1) - 1 if whole else images.clamp(-1, 1)


def _logging_of_encoders() -> Any:
    return load_extra(EXTRA, "utils.logging", package="transformers")


def pictures_of(session: ModelSession) -> Pictures:
    """The pipeline of a session's model."""
    how = prompt_spec(session.loaded.spec).pictures
    return Pictures(session.loaded.weights, how, session.device)


def picture_changes(
    session: ModelSession,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    prompts: Sequence[str],
    seed: int,
) -> list[float]:
    """Measure the mean absolute change of the pixels of each prompt, as a share of their range."""
    pictures = pictures_of(session)
    seeds = [seed + number for number in range(len(prompts))]
    first = pictures.draw(before, prompts, seeds)
    second = pictures.draw(after, prompts, seeds)
    changes: list[float] = ((second - first).abs().flatten(1).mean(1) / 2).tolist()
    return changes
