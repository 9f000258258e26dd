"""What the configurations in a folder of diffusers say of a model; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec_runtime.errors import WeightsError
from editspec_runtime.io.files import read_header
from editspec_runtime.io.json_text import JsonError, parse_json
from editspec_runtime.io.parts import (
    EDITED,
    ENCODERS,
    MODEL_INDEX,
    is_in_parts,
    named_parts,
    read_model_index,
)

FILE = "config.json"

SUPPORTED = "Stable Diffusion 1.x, 2.x and XL, and what was trained from them"

BESIDE = ("tokenizer", "scheduler", "text_encoder", "vae", "vqgan", "image_", "feature_", "safety_")
"""The beginnings of the names of parts that draw nothing."""

CLIP = ("clip_text_model",)
"""The kinds of text encoders that are computed, by ``model_type``."""

CONVERSIONS = {
    "model.diffusion_model.": "a checkpoint in one file",
    "lora_unet_": "a LoRA",
    "lora_te": "a LoRA",
    "unet.": "a LoRA",
    "double_blocks.": "a FLUX model in one file",
    "joint_blocks.": "a Stable Diffusion 3 model in one file",
}
"""What a file of weights is, by the text before names of its tensors."""


@dataclass(frozen=True)
class EncoderConfig:
    """A text encoder of a folder.

    Attributes
    ----------
    name
        Its folder.
    width
        The length of what it gives for a token.
    content
        Its ``config.json``.
    """

    name: str
    width: int
    content: Mapping[str, Any]


@dataclass(frozen=True)
class PipelineConfig:
    """A text-to-image model.

    Attributes
    ----------
    width
        The length of the keys: what the encoders give for a token, one behind the other.
    encoders
        The text encoders, in the order in which what they give is joined.
    penultimate
        Whether the keys are the states before the last block of an encoder. If not, they are those
        behind its last norm.
    doubly_self
        Whether the second attention of a block reads the image, too.
    only_cross
        Whether the first attention of a block may read the text, too.
    details
        Facts for people, as plain values by name.
    """

    width: int
    encoders: tuple[EncoderConfig, ...]
    penultimate: bool
    doubly_self: bool
    only_cross: bool
    details: Mapping[str, Any]


def read_config(path: Path) -> PipelineConfig:
    """Read the configurations of a folder.

    Raises `WeightsError` where `path` is no such folder, a part is missing, or the model is of a
    kind whose cross-attention cannot be edited.
    """
    if not is_in_parts(path):
        raise _not_a_pipeline(path)
    index = read_model_index(path)
    kind = str(index.get("_class_name", "a model"))
    parts = named_parts(index)
    if EDITED not in parts:
        drawing = [name for name in parts if name not in ENCODERS and not name.startswith(BESIDE)]
        others = ", ".join(drawing) or "no model"
        what = f"no U-Net ({others}). "
        if "transformer" in parts:
            what = (
                f"a transformer ({others}), which changes the text before and while its attention "
                "reads it. "
            )
        raise WeightsError(
            f"{path} is a {kind}: what draws is {what}"
            "The keys of an edit are what the text encoder gives.",
            f"A U-Net with cross-attention can be edited: {SUPPORTED}.",
        )
    unet = _read_json(path / EDITED / FILE)
    encoders = tuple(_read_encoder(path / name) for name in ENCODERS if name in parts)
    if not encoders:
        raise WeightsError(
            f"{path / MODEL_INDEX} names no text encoder, and the keys of an edit are what it "
            "gives.",
            f"Give the whole folder of a model: {SUPPORTED}.",
        )
    return _join(path, unet, encoders, parts)


def _join(
    path: Path, unet: Mapping[str, Any], encoders: tuple[EncoderConfig, ...], parts: list[str]
) -> PipelineConfig:
    where = f"{path / EDITED / FILE}"
    projected = unet.get("encoder_hid_dim_type")
    if projected not in (None, "ip_image_proj"):
        raise WeightsError(
            f"{where} says encoder_hid_dim_type: {projected}: the U-Net projects the text before "
            "its attention reads it.",
            f"Give a model whose attention reads the text encoder: {SUPPORTED}.",
        )
    width = _one_width(where, unet.get("cross_attention_dim"))
    given = sum(encoder.width for encoder in encoders)
    if given != width:
        said = " + ".join(f"{each.name} {each.width}" for each in encoders)
        hint = f"Give the whole folder of one model: {SUPPORTED}."
        if ENCODERS[1] not in parts and given < width:
            hint = (
                f"{MODEL_INDEX} names no {ENCODERS[1]}: Stable Diffusion XL has two encoders. Get "
                "the folder with both."
            )
        raise WeightsError(
            f"The cross-attention of {path} reads {width} numbers for a token, and its text "
            f"encoders give {given} ({said}).",
            hint,
        )
    return PipelineConfig(
        width=width,
        encoders=encoders,
        # The mark of Stable Diffusion XL, whose pipelines take these states.
        penultimate=unet.get("addition_embed_type") == "text_time",
        doubly_self=bool(unet.get("double_self_attention")),
        only_cross=_any(unet.get("only_cross_attention")),
        details={
            "text_encoders": [encoder.name for encoder in encoders],
            "width": width,
            "context": min(_context(encoder) for encoder in encoders),
            "sample_size": unet.get("sample_size"),
        },
    )


def _context(encoder: EncoderConfig) -> int:
    return int(encoder.content.get("max_position_embeddings", 77))


def _any(given: object) -> bool:
    return any(given) if isinstance(given, list) else bool(given)


def _one_width(where: str, given: object) -> int:
    """The width of the text that all blocks read. Raises `WeightsError` where it is not one."""
    widths = set(given) if isinstance(given, list) else {given}
    if len(widths) == 1 and isinstance(found := next(iter(widths)), int):
        return found
    raise WeightsError(
        f"{where} says cross_attention_dim: {given}, and one number is expected.",
        f"Give a model whose blocks read one text: {SUPPORTED}.",
    )


def _read_encoder(folder: Path) -> EncoderConfig:
    content = _read_json(folder / FILE)
    kind = content.get("model_type")
    width = content.get("hidden_size")
    if kind not in CLIP or not isinstance(width, int):
        raise WeightsError(
            f"{folder} holds a text encoder of the kind {kind}, and editspec computes CLIP alone.",
            f"These are known: {SUPPORTED}.",
        )
    return EncoderConfig(folder.name, width, content)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is missing.", "Get the whole folder of the model again."
        ) from error
    except (OSError, JsonError) as error:
        raise WeightsError(f"{path} cannot be read as JSON.", "Get the file again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a mapping.", "Get the file again.")
    return content


def _not_a_pipeline(path: Path) -> WeightsError:
    """Say what lies at a path that is no folder of several models."""
    wanted = f"Give the folder of a model: {MODEL_INDEX}, {EDITED}/, {ENCODERS[0]}/, tokenizer/."
    if path.is_file():
        return _single_file(path, wanted)
    own = path / FILE
    if own.is_file() and (path.parent / MODEL_INDEX).is_file():
        return WeightsError(
            f"{path} is one part of a model.", f"Give the folder above it, {path.parent}."
        )
    if any(path.glob("*lora*.safetensors")) or any(path.glob("adapter_*")):
        return WeightsError(
            f"{path} holds a LoRA, which is a change of a model and no model.",
            f"{wanted} A LoRA is fused into one with pipeline.fuse_lora() and save_pretrained().",
        )
    return WeightsError(f"{path} holds no {MODEL_INDEX}.", wanted)


def _single_file(path: Path, wanted: str) -> WeightsError:
    what = ""
    if path.suffix == ".safetensors":
        names = read_header(path).tensors
        if any(".lora" in name or "lora_" in name for name in names):
            what = "a LoRA"
        for text, kind in CONVERSIONS.items():
            if not what and any(name.startswith(text) for name in names):
                what = kind
    if what == "a LoRA":
        return WeightsError(
            f"{path} is a LoRA, which is a change of a model and no model.",
            f"{wanted} A LoRA is fused into one with pipeline.fuse_lora() and save_pretrained().",
        )
    return WeightsError(
        f"{path} is {what or 'one file'}, and this family is read from a folder.",
        "Convert it: in Python, load it with StableDiffusionPipeline.from_single_file(FILE) (of "
        "XL: StableDiffusionXLPipeline) and save it with save_pretrained(FOLDER).",
    )
