"""Train the Skyline generator and its reader: ``python -m editspec.worlds.skyline.train``.

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
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.worlds.skyline.reader import ATTRIBUTES, Reader, truth
from editspec.worlds.skyline.world import LATENT_SIZE, TOPS, Scene, render, scenes
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import safetensors_bytes, write

DRAWN_FROM = 32
"""Positions a side of the first features that draw."""

COLOURS = (0, 2, 3, 4, 7)
"""The numbers of w, by their order in `_attributes`, that the styles of features that draw can
see.
"""

SILENT = ("to_rgb1.", "to_rgbs.0.", "to_rgbs.1.")
"""The to-RGB of smaller features."""

CHANNELS = {4: 128, 8: 128, 16: 128, 32: 96, 64: 48}
MAPPING_LAYERS = 6
BATCH = 16
POOL = 24576
SAVED_EVERY = 500
SEED = 2020


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes
    ----------
    name
        What it is called in the log and in the checkpoints.
    steps, rate
        Steps of Adam, and its highest rate; a cosine takes it to almost nothing.
    mapping, synthesis
        Which networks learn. The mapping alone learns attributes, not pictures.
    sharp
        How much of the loss is L1 rather than squared error.
    half
        Whether pictures are drawn in bfloat16.
    """

    name: str
    steps: int
    rate: float
    mapping: bool
    synthesis: bool
    sharp: float = 0.0
    half: bool = True


PASTED = ("layer6", "layer7", "layer8")
"""The layers into whose values those of another image are pasted, in every second image of a batch;
one a step.
"""

STAGES = (
    Stage("mapping", 16000, 6e-3, True, False),
    Stage("synthesis", 4000, 3e-3, False, True),
    Stage("mixed", 2500, 2e-3, False, True, 0.5),
    Stage("sharpen", 2000, 1e-3, False, True, 1.0),
    Stage("polish", 300, 2e-4, False, True, 1.0, half=False),
)


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
    options = arguments.parse_args()
    device = torch.device(options.device)
    weights = train_generator(options.out, device, options.scale)
    write(options.out / "weights.safetensors", checkpoint_bytes(weights))
    if not (options.out / "reader.safetensors").exists():
        write(
            options.out / "reader.safetensors",
            safetensors_bytes(train_reader(device, options.scale), {}),
        )
    print(tensors_digest(weights))


def train_reader(device: torch.device, scale: float) -> dict[str, Tensor]:
    """The state of a reader trained on rendered scenes, overridden ones among them, blurred and
    noisy at random.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    with torch.random.fork_rng():
        torch.manual_seed(
            SEED
        )  # torch's layers draw their first weights from the global stream only
        reader = Reader().to(device)
    steps = round(2500 * scale)
    adam = torch.optim.Adam(reader.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _cosine(step, steps))
    for step in range(steps):
        scene = _shuffled(scenes(_latents(64, generator)), generator)
        images, target = _worn(render(scene), generator).to(device), truth(scene)
        logits = reader(images)
        loss = sum(
            (F.cross_entropy(logits[name], target[name].to(device)) for name in ATTRIBUTES),
            torch.zeros(()),
        )
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
        if step % 250 == 0:
            print(f"reader {step}/{steps} loss {loss.item():.4f}", flush=True)
    return {name: tensor.detach().cpu() for name, tensor in reader.state_dict().items()}


def train_generator(out: Path, device: torch.device, scale: float) -> dict[str, Tensor]:
    """The averaged weights after all stages, by their names inside ``g_ema``, and
    ``latent_avg``.
    """
    weights = {name: tensor.to(device) for name, tensor in first_weights().items()}
    average = {name: tensor.clone() for name, tensor in weights.items()}
    for number, stage in enumerate(STAGES):
        steps = max(1, round(stage.steps * scale))
        saved = out / f"stage-{number}-{stage.name}.pt"
        weights, average = _train_stage(stage, steps, saved, weights, average, SEED + 10 + number)
    with torch.no_grad():
        latents = _latents(10000, torch.Generator().manual_seed(SEED)).to(device)
        average["latent_avg"] = StyleGAN2(average).mapping(latents).mean(0)
    return {name: tensor.detach().cpu() for name, tensor in average.items()}


def first_weights() -> dict[str, Tensor]:
    """The weights that StyleGAN2 starts from, by the names of the published layout inside
    ``g_ema``.
    """
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 16
    weights = {"input.input": normal(1, CHANNELS[4], 4, 4)}
    for number in range(1, MAPPING_LAYERS + 1):
        weights |= {
            f"style.{number}.weight": normal(LATENT_SIZE, LATENT_SIZE) / 0.01,
            f"style.{number}.bias": torch.zeros(LATENT_SIZE),
        }
    blocks = [("conv1", 4, 4)]
    for index, size in enumerate(sorted(CHANNELS)[1:]):
        blocks += [(f"convs.{2 * index}", size // 2, size), (f"convs.{2 * index + 1}", size, size)]
    for number, (name, before, size) in enumerate(blocks):
        weights |= {
            f"{name}.conv.weight": normal(1, CHANNELS[size], CHANNELS[before], 3, 3),
            f"{name}.conv.modulation.weight": normal(CHANNELS[before], LATENT_SIZE),
            f"{name}.conv.modulation.bias": torch.ones(CHANNELS[before]),
            f"{name}.noise.weight": torch.zeros(1),
            f"{name}.activate.bias": torch.zeros(CHANNELS[size]),
            f"noises.noise_{number}": normal(1, 1, size, size),
        }
        if size >= DRAWN_FROM:
            _blind(weights[f"{name}.conv.modulation.weight"])
        if before != size:
            weights[f"{name}.conv.blur.kernel"] = kernel.clone()
            continue
        rgb = "to_rgb1" if size == 4 else f"to_rgbs.{number // 2 - 1}"
        weights |= {
            f"{rgb}.conv.weight": normal(1, 3, CHANNELS[size], 1, 1) * (size >= DRAWN_FROM),
            f"{rgb}.conv.modulation.weight": normal(CHANNELS[size], LATENT_SIZE),
            f"{rgb}.conv.modulation.bias": torch.ones(CHANNELS[size]),
            f"{rgb}.bias": torch.zeros(1, 3, 1, 1),
        }
        if size >= DRAWN_FROM:
            _blind(weights[f"{rgb}.conv.modulation.weight"])
        if size != 4:
            weights[f"{rgb}.upsample.kernel"] = kernel.clone()
    return weights


def _blind(modulation: Tensor) -> None:
    """Make a modulation's weight (or its gradient) [channels, style_dim] see nothing of w but
    colours.
    """
    seen = torch.zeros(modulation.shape[1], dtype=torch.bool, device=modulation.device)
    seen[list(COLOURS)] = True
    modulation[:, ~seen] = 0


def checkpoint_bytes(weights: dict[str, Tensor]) -> bytes:
    """The weights in the published checkpoint layout, as safetensors."""
    named = {
        name if name == "latent_avg" else f"g_ema.{name}": tensor
        for name, tensor in weights.items()
    }
    return safetensors_bytes(named, {})


def _train_stage(
    stage: Stage,
    steps: int,
    saved: Path,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train one stage from where its checkpoint stands; returns the weights to go on from, and
    their moving average.
    """
    learns = [name for name in weights if _learns(name, stage)]
    weights = {
        name: tensor.detach().requires_grad_(name in learns) for name, tensor in weights.items()
    }
    device = weights["input.input"].device
    # A column that is zero everywhere was made blind; it stays so.
    blind = [
        name for name in learns if "modulation.weight" in name and not weights[name][:, 1].any()
    ]
    adam = torch.optim.Adam(
        _groups({name: weights[name] for name in learns}, stage), betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _cosine(step, steps))
    pool = None
    if stage.synthesis:
        count, drawn = min(POOL, steps * BATCH), torch.Generator().manual_seed(seed + 100)
        pool = _Pool.rendered(count, drawn, device)
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
        loss = (
            _attribute_loss(weights, generator)
            if pool is None
            else _picture_loss(weights, stage, pool, generator)
        )
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name in blind:
            gradient = weights[name].grad
            assert gradient is not None
            _blind(gradient)
        adam.step()
        schedule.step()
        with torch.no_grad():
            keep = min(0.998, step / (step + 10))
            for name in learns:
                average[name].lerp_(weights[name], 1 - keep)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            pace = (time.monotonic() - started) / (step + 1 - begin)
            print(
                f"{stage.name} {step + 1}/{steps} loss {loss.item():.4f} {pace * 1000:.0f} ms a step",
                flush=True,
            )
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
    state = {
        "step": step,
        "weights": {name: tensor.detach() for name, tensor in weights.items()},
        "average": average,
        "adam": adam.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
    }
    saved.parent.mkdir(parents=True, exist_ok=True)
    part = saved.with_suffix(".part")
    torch.save(state, part)
    part.replace(saved)


@dataclass(frozen=True)
class _Pool:
    """Rendered scenes to draw batches from; rendering them takes as long as learning from them once
    or twice.

    Pictures are kept with 8 bits; `rare` marks the pixels in which something rare or small stands:
    where the picture differs from that of the same scene without it. `lent` and `lent_rare` are
    those of the next scene of the pool in the colours of this one.
    """

    latents: Tensor
    pictures: Tensor
    rare: Tensor
    lent: Tensor
    lent_rare: Tensor

    @staticmethod
    def rendered(count: int, generator: torch.Generator, device: torch.device) -> _Pool:
        """`count` scenes, drawn with `generator`."""
        latents = _latents(count, generator).to(device)
        scene = scenes(latents)
        return _Pool(latents, *_pictures(scene), *_pictures(_coloured(scene[_next(count)], scene)))

    def batch(self, generator: torch.Generator) -> _Batch:
        """`BATCH` scenes."""
        chosen = torch.randint(len(self.latents), (BATCH,), generator=generator).to(
            self.latents.device
        )
        following = _next(len(self.latents))[chosen.cpu()].to(chosen.device)
        return _Batch(
            self.latents[chosen],
            _unpacked(self.pictures[chosen]),
            1 + 3 * self.rare[chosen].float(),
            self.latents[following],
            _unpacked(self.lent[chosen]),
            1 + 3 * self.lent_rare[chosen].float(),
        )


@dataclass(frozen=True)
class _Batch:
    """Latents [n, d], pictures [n, 3, 64, 64] in -1..1 and weights of pixels [n, 1, 64, 64]; and
    those of lenders.
    """

    latents: Tensor
    wanted: Tensor
    weight: Tensor
    lenders: Tensor
    lent: Tensor
    lent_weight: Tensor

    def pasted(
        self, weights: dict[str, Tensor], layer: str, generator: torch.Generator
    ) -> tuple[Tensor, _Batch]:
        """The batch drawn with a box of the lender's values pasted into every second image's, and
        what is wanted.
        """
        model = StyleGAN2(weights)
        reached = model.prefix(layer, self.latents)
        value = model.value(layer, reached)
        lent = model.value(layer, model.prefix(layer, self.lenders))
        size = value.shape[-1]
        inside = torch.zeros(len(value), 1, size, size, dtype=torch.bool, device=value.device)
        index = torch.arange(size).expand(len(value), 2, size).clone()
        for item in range(0, len(value), 2):
            spans = [_span(size, generator) for _ in range(2)]
            (top, bottom, down), (left, right, across) = spans
            inside[item, :, top:bottom, left:right] = True
            index[item] += torch.tensor([down, across])[:, None]
        index = index.clamp(0, size - 1).to(value.device)
        image = model.rest(
            layer, torch.where(inside, _shifted(lent, index), value), reached.carried
        )
        scale = self.wanted.shape[-1] // size
        fine = (index * scale).repeat_interleave(scale, 2) + torch.arange(
            size * scale, device=index.device
        ) % scale
        region = inside.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        wanted = torch.where(region, _shifted(self.lent, fine), self.wanted)
        weight = torch.where(region, _shifted(self.lent_weight, fine), self.weight)
        return image, replace(self, wanted=wanted, weight=weight)


def _span(size: int, generator: torch.Generator) -> tuple[int, int, int]:
    """Where a box begins and ends along an axis of a map, and how far away its values are; half the
    time, there.
    """
    length = int(torch.randint(size // 8, size // 2 + 1, (), generator=generator))
    begin, source = (
        int(torch.randint(size - length + 1, (), generator=generator)) for _ in range(2)
    )
    stays = bool(torch.rand((), generator=generator) < 0.5)
    return begin, begin + length, 0 if stays else source - begin


def _shifted(maps: Tensor, index: Tensor) -> Tensor:
    """maps [n, c, h, w] read at the rows index[:, 0] and the columns index[:, 1]; index [n, 2,
    h].
    """
    items = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps.movedim(1, -1)[items, index[:, 0, :, None], index[:, 1, None, :]].movedim(-1, 1)


def _pictures(scene: Scene) -> tuple[Tensor, Tensor]:
    """Pictures with 8 bits, and where something rare stands in them."""
    pictures, rare = [], []
    for numbers in torch.split(torch.arange(len(scene)), 64):
        some = scene[numbers]
        picture = render(some)
        plain = render(
            some.replace(people=0, middle_watermark=0, bottom_watermark=0, left_top=2, right_top=2)
        )
        pictures.append(((picture + 1) * 127.5).round().byte())
        rare.append((picture - plain).abs().mean(1, keepdim=True) > 0.05)
    return torch.cat(pictures), torch.cat(rare)


def _unpacked(pictures: Tensor) -> Tensor:
    return pictures / 127.5 - 1


def _coloured(scene: Scene, like: Scene) -> Scene:
    """Scenes in the colours of others."""
    return scene.replace(
        **{name: getattr(like, name) for name in ("sky", "ground", "wall", "roof")}
    )


def _next(count: int) -> Tensor:
    return torch.arange(count).roll(-1)


def _groups(learns: dict[str, Tensor], stage: Stage) -> list[dict[str, Any]]:
    """The parameters with their rates.

    The weights of the mapping are stored so much larger than they count (by sqrt(size) / 0.01, its
    biases by 1 / 0.01) that the same rate in what counts needs as much larger steps.
    """
    groups: dict[str, tuple[float, list[Tensor]]] = {
        "style.weight": (stage.rate * math.sqrt(LATENT_SIZE) / 0.01, []),
        "style.bias": (stage.rate / 0.01, []),
        "synthesis": (stage.rate, []),
    }
    for name, tensor in learns.items():
        groups[f"style.{name.rsplit('.', 1)[1]}" if name.startswith("style.") else "synthesis"][
            1
        ].append(tensor)
    return [{"params": tensors, "lr": lr} for lr, tensors in groups.values() if tensors]


def _attribute_loss(weights: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Squared error of w against the attributes, and against 0 in the numbers that are left."""
    latents = _latents(1024, generator).to(weights["input.input"].device)
    styles, wanted = StyleGAN2(weights).mapping(latents), _attributes(scenes(latents))
    told, rest = styles[:, : wanted.shape[1]], styles[:, wanted.shape[1] :]
    return F.mse_loss(told, wanted) + rest.square().mean()


def _picture_loss(
    weights: dict[str, Tensor], stage: Stage, pool: _Pool, generator: torch.Generator
) -> Tensor:
    """Error of pictures and of their gradients, from squared (sharp 0) to absolute (sharp 1)."""
    batch = pool.batch(generator)
    with torch.autocast(batch.latents.device.type, dtype=torch.bfloat16, enabled=stage.half):
        layer = PASTED[int(torch.randint(len(PASTED), (), generator=generator))]
        drawn, batch = batch.pasted(weights, layer, generator)
    drawn, wanted, weight = drawn.float(), batch.wanted, batch.weight
    sharp = stage.sharp
    loss = torch.zeros((), device=drawn.device)
    for order in (_itself, _across, _down):
        error = order(drawn) - order(wanted)
        scale = weight if order is _itself else 1.0
        if sharp < 1.0:
            loss = loss + (1 - sharp) * 4 * (scale * error.square()).mean()
        if sharp > 0.0:
            loss = loss + sharp * (scale * error.abs()).mean() * (1.0 if order is _itself else 0.5)
    return loss


def _itself(image: Tensor) -> Tensor:
    return image


def _across(image: Tensor) -> Tensor:
    return image[..., 1:] - image[..., :-1]


def _down(image: Tensor) -> Tensor:
    return image[..., 1:, :] - image[..., :-1, :]


def _attributes(scene: Scene) -> Tensor:
    """Attributes as numbers around 0, [n, m]; those of absent objects are 0."""
    people = scene.people.float()
    trees = (scene.left_tree | scene.right_tree).float()
    columns = [
        2 * getattr(scene, name) - 1 for name in ("sky", "sun_height", "ground", "wall", "roof")
    ]
    columns += [
        2 * scene.left_height - 1,
        2 * scene.right_height - 1,
        trees * (2 * scene.ground - 1),
    ]
    columns += [(scene.sun_site == site).float() for site in range(3)]
    for name in ("left_top", "right_top"):
        columns += [(getattr(scene, name) == kind).float() * 2 for kind in range(len(TOPS) - 1)]
    flags = ("windows_lit", "left_tree", "right_tree", "middle_watermark", "bottom_watermark")
    columns += [2 * getattr(scene, name).float() - 1 for name in flags]
    columns += [people * (scene.people_site == site).float() * 2 for site in range(2)]
    return torch.stack(columns, 1)


def _shuffled(scene: Scene, generator: torch.Generator) -> Scene:
    """Half of the scenes with attributes that do not occur together, or not as often, by
    themselves.
    """
    overridden = {
        name: torch.randint(n, (len(scene),), generator=generator) for name, n in ATTRIBUTES.items()
    }
    other = scene.replace(**overridden)
    keep = torch.rand(len(scene), generator=generator) < 0.5
    return Scene(
        **{
            name: torch.where(keep, value, getattr(other, name))
            for name, value in vars(scene).items()
        }
    )


def _worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures a little blurred, off in contrast and noisy, as a generator may draw them."""
    batch = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(batch, 1, 1, 1, generator=generator)
    noise = (
        torch.randn(images.shape, generator=generator)
        * 0.15
        * torch.rand(batch, 1, 1, 1, generator=generator)
    )
    contrast = 1 + 0.2 * (torch.rand(batch, 1, 1, 1, generator=generator) - 0.5)
    return (images + share * (blurred - images)) * contrast + noise


def _latents(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, LATENT_SIZE, generator=generator)


def _learns(name: str, stage: Stage) -> bool:
    if name.startswith("style."):
        return stage.mapping
    return stage.synthesis and not name.startswith(("noises.", *SILENT)) and "kernel" not in name


def _cosine(step: int, steps: int) -> float:
    """From 1 to 0.002 over `steps`, after a short warm-up."""
    return min(1.0, (step + 1) / 100) * (
        0.002 + 0.998 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
    )


if __name__ == "__main__":
    main()
