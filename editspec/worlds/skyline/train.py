"""Training of generator and reader: ``python -m editspec.worlds.skyline.train``.

Regression on rendered pictures, in stages: the mapping network alone learns to tell the attributes
of a scene, and nothing else, in the first numbers of w; the synthesis network learns to draw from
that, by squared error first and by L1 at last, which sharpens the edges. Every stage resumes where
an interruption left it.

Below 32 x 32 positions nothing is drawn (those to-RGB are zero), and from there on styles carry
colours only. What a scene is made of must then be told from place to place by the features, as it
is in generators that were trained on photographs, and neither past a layer by the image so far nor
to a whole layer at once by w: only then is there a rule at a layer that an edit can change. And
what features tell must not depend on the image or the place that they were made for, or nothing
could be copied: so features of one image are pasted into another, anywhere, and what is asked for
is the picture that this describes, in the colours of the image that they were pasted into.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from editspec.worlds.checkpoints import write_checkpoint
from editspec.worlds.skyline.training.batches import BATCH, Pool, draw_latents
from editspec.worlds.skyline.training.first_weights import (
    SEED,
    blind_to_attributes,
    checkpoint_bytes,
    first_weights,
)
from editspec.worlds.skyline.training.losses import attribute_loss, image_loss
from editspec.worlds.skyline.training.readers import train_reader
from editspec.worlds.skyline.training.stages import (
    STAGES,
    Stage,
    cosine_rate,
    learns_in,
    parameter_groups,
)
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import safetensors_bytes, write

POOL = 24576
"""Scenes that are rendered before a stage, at the most."""

SAVED_EVERY = 500
"""Steps between checkpoints."""


def main() -> None:
    """Train what is missing in the output folder, and print the digest of the weights."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--out", type=Path, default=Path(".training"), help="where checkpoints and results go"
    )
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument(
        "--scale", type=float, default=1.0, help="of the number of steps of every stage"
    )
    arguments.add_argument(
        "--plain", action="store_true", help="paste no features of other images in the training"
    )
    options = arguments.parse_args()
    device = torch.device(options.device)
    weights = train_generator(options.out, device, options.scale, plain=options.plain)
    write(options.out / "weights.safetensors", checkpoint_bytes(weights))
    reader = options.out / "reader.safetensors"
    if not reader.exists():
        write(reader, safetensors_bytes(train_reader(device, options.scale), {}))
    print(tensors_digest(weights))


def train_generator(
    out: Path, device: torch.device, scale: float, *, plain: bool = False
) -> dict[str, Tensor]:
    """Train all stages, and return the averaged weights.

    The tensors have their names inside ``g_ema``; ``latent_avg`` is added. Where `plain`, no
    features are pasted, as in the training of generators elsewhere.
    """
    weights = {name: tensor.to(device) for name, tensor in first_weights().items()}
    average = {name: tensor.clone() for name, tensor in weights.items()}
    for number, stage in enumerate(STAGES):
        steps = max(1, round(stage.steps * scale))
        saved = out / f"stage-{number}-{stage.name}.pt"
        seed = SEED + 10 + number
        weights, average = _train_stage(stage, steps, saved, weights, average, seed, plain)
    with torch.no_grad():
        latents = draw_latents(10000, torch.Generator().manual_seed(SEED)).to(device)
        average["latent_avg"] = StyleGAN2(average).mapping(latents).mean(0)
    return {name: tensor.detach().cpu() for name, tensor in average.items()}


def _train_stage(
    stage: Stage,
    steps: int,
    saved: Path,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    seed: int,
    plain: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train one stage from where its checkpoint stands.

    Returns the weights that the next stage goes on from, and their moving average.
    """
    learns = [name for name in weights if learns_in(name, stage)]
    weights = {
        name: tensor.detach().requires_grad_(name in learns) for name, tensor in weights.items()
    }
    device = weights["input.input"].device
    # A column that is zero everywhere was made blind; it stays so.
    modulations = [name for name in learns if "modulation.weight" in name]
    blind = [name for name in modulations if not weights[name][:, 1].any()]
    groups = parameter_groups({name: weights[name] for name in learns}, stage)
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: cosine_rate(step, steps))
    pool = None
    if stage.synthesis:
        count, drawn = min(POOL, steps * BATCH), torch.Generator().manual_seed(seed + 100)
        pool = Pool.render(count, drawn, device)
    begin, generator = 0, torch.Generator().manual_seed(seed)
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        begin = state["step"]
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(state["weights"][name])
                average[name].copy_(state["average"][name])
        adam.load_state_dict(state["adam"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"])
    started = time.monotonic()
    for step in range(begin, steps):
        if pool is None:
            loss = attribute_loss(weights, generator)
        else:
            loss = image_loss(weights, stage, pool, generator, plain=plain)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name in blind:
            gradient = weights[name].grad
            assert gradient is not None
            blind_to_attributes(gradient)
        adam.step()
        schedule.step()
        with torch.no_grad():
            # Early on the average covers few steps, or the first weights would stay in it.
            keep = min(0.998, step / (step + 10))
            for name in learns:
                average[name].lerp_(weights[name], 1 - keep)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            pace = (time.monotonic() - started) / (step + 1 - begin)
            done = f"{stage.name} {step + 1}/{steps}"
            print(f"{done} loss {loss.item():.4f} {pace * 1000:.0f} ms a step", flush=True)
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            _save(saved, step + 1, weights, average, adam, schedule, generator)
    # The next stage goes on from the average, which is better than the last step.
    return {name: tensor.detach().clone() for name, tensor in average.items()}, average


def _save(
    saved: Path,
    step: int,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    adam: torch.optim.Adam,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    generator: torch.Generator,
) -> None:
    """Write a checkpoint, which replaces the last one in one step."""
    state = {
        "step": step,
        "weights": {name: tensor.detach() for name, tensor in weights.items()},
        "average": average,
        "adam": adam.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
    }
    write_checkpoint(saved, state)


if __name__ == "__main__":
    main()
