"""The family of text-to-image models: which matrices read the text, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import editspec
from editspec_runtime.errors import EditError, WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import read_architecture
from editspec_runtime.io.headers import TensorInfo
from tests.commands import run

PIPELINE = Path(__file__).parents[1] / "golden" / "diffusion" / "pipeline"
SPEC = """
version: 1
model: {family: diffusion, weights: WEIGHTS}
edits:
  - {name: e, source: {prompt: art}, target: {prompt: van gogh}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny pipeline, and a spec beside it."""
    shutil.copytree(PIPELINE, tmp_path / "model")
    (tmp_path / "spec.yaml").write_text(SPEC.replace("WEIGHTS", "model"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


def change(path: Path, **values: Any) -> None:
    """Change some fields of a configuration."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps(content))


def tensors_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    """Tensors as headers describe them."""
    return {name: TensorInfo("F32", shape) for name, shape in shapes.items()}


def attention(name: str, query: int, key: int) -> dict[str, tuple[int, ...]]:
    """The matrices of an attention of 8 outputs."""
    sizes = {"to_q": query, "to_k": key, "to_v": key}
    return {f"unet/{name}.{matrix}.weight": (8, size) for matrix, size in sizes.items()}


EMBEDDING = {"text_encoder/embeddings.token_embedding.weight": (50, 24)}


def test_layers_are_those_that_read_the_text(folder: Path) -> None:
    layers = read_architecture("diffusion", read_headers(folder), folder).layers
    assert len(layers) == 8
    assert {layer.in_features for layer in layers.values()} == {24}
    assert all(".attn2." in name for name in layers)
    # As diffusers itself has them: down, then the middle, then up.
    assert [name.split(".")[0] for name in layers][::2] == [
        "down_blocks",
        "mid_block",
        "up_blocks",
        "up_blocks",
    ]


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a folder as its headers describe them."""
    named = {}
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        for name, tensor in load_file(folder / part / f"{file}.safetensors").items():
            named[f"{part}/{name}"] = TensorInfo("F32", tuple(tensor.shape))
    return named


def test_self_attention_of_the_width_of_the_text_is_none(folder: Path) -> None:
    """Where shapes do not tell, the place in the block and the configuration do."""
    shapes = EMBEDDING | attention("a.attn1", 24, 24) | attention("a.attn2", 24, 24)
    found = read_architecture("diffusion", tensors_of(shapes), folder).layers
    assert list(found) == ["a.attn2.to_k", "a.attn2.to_v"]
    change(folder / "unet" / "config.json", only_cross_attention=[True, False])
    found = read_architecture("diffusion", tensors_of(shapes), folder).layers
    assert len(found) == 4
    change(folder / "unet" / "config.json", only_cross_attention=False, double_self_attention=True)
    with pytest.raises(WeightsError, match="No attention of this U-Net reads a text"):
        read_architecture("diffusion", tensors_of(shapes), folder)


@pytest.mark.parametrize(
    ("width", "channels", "count"),
    [(768, (320, 640, 1280), 32), (1024, (320, 640, 1280), 32), (2048, (640, 1280), 140)],
    ids=["1.x", "2.x", "xl"],
)
def test_layers_of_the_shapes_of_stable_diffusion(
    width: int, channels: tuple[int, ...], count: int
) -> None:
    """Their names and shapes alone; blocks, attentions and depth as the models have them."""
    blocks = {"mid_block": (channels[-1], 1, 10 if width == 2048 else 1)}
    for number, size in enumerate(channels):
        depth = (2, 10)[number] if width == 2048 else 1
        blocks[f"down_blocks.{number + (width == 2048)}"] = (size, 2, depth)
        blocks[f"up_blocks.{len(channels) - number - (width == 2048)}"] = (size, 3, depth)
    shapes = {"text_encoder/embeddings.token_embedding.weight": (9, width)}
    for block, (size, attentions, depth) in blocks.items():
        for attention_number in range(attentions):
            for number in range(depth):
                stem = f"{block}.attentions.{attention_number}.transformer_blocks.{number}"
                shapes |= attention(f"{stem}.attn1", size, size)
                shapes |= attention(f"{stem}.attn2", size, width)
    layers = read_architecture("diffusion", tensors_of(shapes)).layers
    assert len(layers) == count
    assert {layer.in_features for layer in layers.values()} == {width}


def test_an_attention_of_an_adapter_is_left_alone(folder: Path) -> None:
    shapes = EMBEDDING | attention("a.attn2", 8, 24)
    shapes |= {"unet/a.attn2.processor.to_k_ip.weight": (8, 24)}
    found = read_architecture("diffusion", tensors_of(shapes), folder).layers
    assert list(found) == ["a.attn2.to_k", "a.attn2.to_v"]


def test_half_of_an_attention_is_refused(folder: Path) -> None:
    shapes = EMBEDDING | attention("a.attn2", 8, 24)
    del shapes["unet/a.attn2.to_v.weight"]
    with pytest.raises(WeightsError, match=r"to_v\.weight is missing"):
        read_architecture("diffusion", tensors_of(shapes), folder)


def make_other_pipeline(folder: Path, kind: str, *parts: str) -> None:
    """Write the index of a pipeline whose parts are others than those of Stable Diffusion 1."""
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3", "unet")
    index: dict[str, Any] = {"_class_name": kind} | {key: [None, None] for key in encoders}
    index |= {part: ["diffusers", "Some"] for part in (*parts, "tokenizer", "scheduler", "vae")}
    (folder / "model_index.json").write_text(json.dumps(index))


def make_flux(folder: Path) -> str:
    make_other_pipeline(folder, "FluxPipeline", "text_encoder", "text_encoder_2", "transformer")
    return "FluxPipeline: what draws is a transformer (transformer)"


def make_third(folder: Path) -> str:
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    make_other_pipeline(folder, "StableDiffusion3Pipeline", *encoders, "transformer")
    return "StableDiffusion3Pipeline: what draws is a transformer (transformer)"


def make_pixart(folder: Path) -> str:
    make_other_pipeline(folder, "PixArtSigmaPipeline", "text_encoder", "transformer")
    return "PixArtSigmaPipeline: what draws is a transformer (transformer)"


def make_cascade(folder: Path) -> str:
    make_other_pipeline(folder, "StableCascadeDecoderPipeline", "text_encoder", "decoder", "vqgan")
    return "StableCascadeDecoderPipeline: what draws is no U-Net (decoder)"


def make_without_text(folder: Path) -> str:
    make_other_pipeline(folder, "DDPMPipeline", "unet")
    return "names no text encoder"


def make_xl_without_its_second(folder: Path) -> str:
    change(folder / "unet" / "config.json", cross_attention_dim=56)
    return "reads 56 numbers for a token, and its text encoders give 24"


def make_projected(folder: Path) -> str:
    change(folder / "unet" / "config.json", encoder_hid_dim_type="text_proj")
    return "projects the text before"


def make_fused(folder: Path) -> str:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    tensors[f"{name}.to_kv.weight"] = torch.zeros(64, 24)
    save_file(tensors, file)
    return "is fused"


def make_other_encoder(folder: Path) -> str:
    change(folder / "text_encoder" / "config.json", model_type="t5")
    return "a text encoder of the kind t5"


def make_bin(folder: Path) -> str:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    return r"holds diffusion_pytorch_model.bin, and no .safetensors"


def remove_tokenizer(folder: Path) -> str:
    shutil.rmtree(folder / "tokenizer")
    return "tokenizer is missing, which makes tokens of prompts"


def remove_unet(folder: Path) -> str:
    shutil.rmtree(folder / "unet")
    return "config.json is missing"


@pytest.mark.parametrize(
    "spoil",
    [
        make_flux,
        make_third,
        make_pixart,
        make_cascade,
        make_without_text,
        make_xl_without_its_second,
        make_projected,
        make_fused,
        make_other_encoder,
        make_bin,
        remove_tokenizer,
        remove_unet,
    ],
)
def test_a_model_that_cannot_be_edited_is_refused_in_words(folder: Path, spoil: Any) -> None:
    words = spoil(folder)
    with pytest.raises(EditError) as found:
        editspec.validate("spec.yaml")
    assert words in str(found.value)
    assert getattr(found.value, "hint", "hint:") or "hint" in str(found.value)
    # The command line says the same, without a traceback.
    result = run("build", "spec.yaml", "-o", "out")
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model.diffusion_model.out.0.weight"], "a checkpoint in one file"),
        (["lora_unet_mid_block_attn2_to_k.lora_down.weight"], "is a LoRA"),
        (["unet.mid_block.attn2.to_k.lora_A.weight"], "is a LoRA"),
        (["double_blocks.0.img_attn.qkv.weight"], "a FLUX model in one file"),
        (["anything"], "is one file"),
    ],
)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, names: list[str], words: str) -> None:
    file = tmp_path / "some.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names}, file)
    (tmp_path / "spec.yaml").write_text(SPEC.replace("WEIGHTS", file.name))
    with pytest.raises(EditError, match=words):
        editspec.validate(tmp_path / "spec.yaml")


def test_validating_prompts_imports_no_arrays(folder: Path) -> None:
    found = modules_after("validate", "spec.yaml")
    assert "editspec_compiler.modalities.text_to_image.modality" in found
    assert not found & {"torch", "numpy", "safetensors", "transformers", "diffusers"}


def modules_after(*arguments: str) -> set[str]:
    """All modules that a command has imported when it ends."""
    code = """
import json, sys
from editspec.cli.main import app
try:
    app()
except SystemExit as error:
    assert not error.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(done.stderr))


def test_folders_that_are_no_model(folder: Path, tmp_path: Path) -> None:
    for weights, words in (("model/unet", "one part of a model"), ("lora", "holds a LoRA")):
        (tmp_path / "lora").mkdir(exist_ok=True)
        save_file({"a": torch.zeros(1)}, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
        (tmp_path / "other.yaml").write_text(SPEC.replace("WEIGHTS", weights))
        with pytest.raises(EditError, match=words):
            editspec.validate(tmp_path / "other.yaml")


def test_weights_that_are_only_hashed_count_in_the_digest(folder: Path) -> None:
    sparse, whole = read_weights(folder, whole=False), read_weights(folder)
    assert sparse.digest() == whole.digest()
    assert sparse.unread
    assert not whole.unread
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.bias"] += 1
    save_file(tensors, file)
    assert "unet/conv_in.bias" in sparse.unread
    assert read_weights(folder, whole=False).digest() != sparse.digest()


def test_of_several_precisions_the_plain_one_is_read(folder: Path) -> None:
    before = read_weights(folder).digest()
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.zeros(1)}, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert read_weights(folder).digest() == before
    file.unlink()
    assert set(read_weights(folder)) >= {"unet/a"}
