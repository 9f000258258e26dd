"""The networks of Skyline by prompt, and their folder in the layout of diffusers.

There is no autoencoder: the U-Net works on the pixels of 64 x 64 pictures in -1..1. So
`StableDiffusionPipeline` is loaded with ``vae=None``, and its "latents" are the pictures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editspec.modalities.text_to_image.drawing import Pictures
from editspec.worlds.skyline.captions.tokens import BEGIN, END, LENGTH, make_tokenizer, token_number
from editspec.worlds.skyline.world import SIZE
from editspec_compiler.modalities.text_to_image.schema import Drawn
from editspec_runtime.io.extra_registry import load_extra

WIDTH = 160
"""Numbers of a token in the text encoder's output, which keys of cross-attention are."""

FIRST_WIDTH = 96
"""Its numbers in the first stage of the training."""

HEADS = 4
"""Heads of a layer of the text encoder."""

_ANY_KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"

SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,  # of no effect on this spacing, and the only one that pipelines take
}
"""A schedule that begins at pure noise, so that a picture's brightness is not given away by it."""


def make_text_encoder(width: int = WIDTH) -> nn.Module:
    """Make a text encoder of two layers; its first weights come from torch's global stream."""
    end = token_number(END)
    transformers = load_extra("diffusion", package="transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=make_tokenizer().get_vocab_size(),
        hidden_size=width,
        intermediate_size=192,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        bos_token_id=token_number(BEGIN),
        eos_token_id=end,
        pad_token_id=end,
    )
    network: nn.Module = transformers.CLIPTextModel(config)
    return network


def make_unet(width: int = WIDTH) -> nn.Module:
    """Make a U-Net of four levels with cross-attention at 16 x 16 and 8 x 8 positions."""
    network: nn.Module = load_extra("diffusion").UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,  # the number of heads: diffusers keeps an old name
        norm_num_groups=8,
    )
    return network


def make_scheduler() -> Any:
    """Make the scheduler that drawing and training share."""
    return load_extra("diffusion").DDIMScheduler(**SCHEDULER)


def load_networks(weights: dict[str, Tensor]) -> tuple[nn.Module, nn.Module]:
    """Make both networks with `weights`, named ``unet.…`` and ``text_encoder.…``."""
    width = weights[_ANY_KEY].shape[1]
    unet, text_encoder = make_unet(width), make_text_encoder(width)
    for prefix, network in (("unet.", unet), ("text_encoder.", text_encoder)):
        own = {
            name.removeprefix(prefix): tensor.float()
            for name, tensor in weights.items()
            if name.startswith(prefix)
        }
        network.load_state_dict(own)
    return unet.eval(), text_encoder.eval()


def join_weights(unet: nn.Module, text_encoder: nn.Module) -> dict[str, Tensor]:
    """Return the weights of both networks, named ``unet.…`` and ``text_encoder.…``."""
    joined: dict[str, Tensor] = {}
    for prefix, network in (("unet.", unet), ("text_encoder.", text_encoder)):
        joined |= {prefix + name: tensor for name, tensor in network.named_parameters()}
    return joined


def save_pipeline(weights: dict[str, Tensor], folder: Path) -> None:
    """Write the folder of a pipeline in float16: U-Net, text encoder, tokenizer, scheduler."""
    networks: tuple[Any, Any] = load_networks(weights)
    for network, name in zip(networks, ("unet", "text_encoder"), strict=True):
        network.half().save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
    _save_tokenizer(folder / "tokenizer")
    components = {
        "_class_name": "StableDiffusionPipeline",
        "requires_safety_checker": False,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": [None, None],
    }
    _write_json(folder / "model_index.json", components)


def load_pipeline(folder: Path) -> Any:
    """Load the folder of a pipeline, in float32."""
    return Pictures(folder, Drawn(), torch.device("cpu")).pipeline


def _save_tokenizer(folder: Path) -> None:
    """Write a tokenizer as transformers reads it, whether fast or slow."""
    tokenizer = make_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    _write_json(folder / "vocab.json", model["vocab"])
    lines = [f"{first} {second}" for first, second in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
