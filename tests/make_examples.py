"""Makes the files that the examples of bad input name: ``python -m tests.make_examples``; they are
kept in git.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save

from editspec_runtime.families.stylegan2.nvidia import nvidia_name, nvidia_shape
from tests.cases import tiny_stylegan2

FILES = Path(__file__).parent / "invalid" / "files"


class Code:
    """What a malicious pickle holds: it makes the file `trap` where it is read."""

    def __reduce__(self) -> Any:
        return (open, ("trap", "w"))


def main() -> None:
    FILES.mkdir(exist_ok=True)
    weights = tiny_stylegan2()
    whole = save(weights)
    (FILES / "tiny.safetensors").write_bytes(whole)
    (FILES / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (FILES / "corrupt.safetensors").write_bytes(whole[:8] + b"}" + whole[9:])
    (FILES / "other-layout.safetensors").write_bytes(save({"layer1.conv.weight": torch.ones(2, 2)}))
    weights["convs.0.conv.weight"][0, 1, 2] = float("nan")
    (FILES / "nan.safetensors").write_bytes(save(weights))
    (FILES / "code.pt").write_bytes(pickle.dumps({"g_ema": Code()}, protocol=2))
    (FILES / "latent.safetensors").write_bytes(save({"z": torch.ones(5)}))
    checkpoints()
    records()
    painted_masks()
    projected_latents()
    language_models()

    lost = json.dumps({"metadata": {}, "weight_map": {"input.input": "lost.safetensors"}}) + "\n"
    for index in ("sharded/model", "two-indices/one", "two-indices/two"):
        path = FILES / f"{index}.safetensors.index.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(lost)

    region = Image.new("L", (32, 32))
    ImageDraw.Draw(region).rectangle((8, 8, 23, 23), fill=255)
    region.save(FILES / "region.png")
    dot = Image.new("L", (256, 256))
    dot.putpixel((200, 40), 255)
    dot.save(FILES / "dot.png")
    Image.new("L", (32, 32)).save(FILES / "empty.png")
    Image.new("RGBA", (32, 32), (255, 255, 255, 0)).save(FILES / "transparent.png")
    Image.new("L", (32, 16), 255).save(FILES / "wide.png")
    (FILES / "text.png").write_text("This is not an image.\n")
    (FILES / "cut-off.png").write_bytes((FILES / "region.png").read_bytes()[:60])
    (FILES / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (FILES / "large.png").write_bytes(png_header(9_000, 9_000))
    (FILES.parent / "not-utf8.yaml").write_bytes("version: 1\nmodel: caf\u00e9\n".encode("latin-1"))


LLAMA = {
    "model_type": "llama",
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 48,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
}


def language_models() -> None:
    """A language model as a folder of the hub has it, and folders with one thing wrong each."""
    golden = Path(__file__).parent / "golden" / "transformer"
    tokenizer = (golden / "tokenizer.json").read_bytes()
    vocabulary = json.loads(tokenizer)["model"]["vocab"]
    tensors = tiny_llama(len(vocabulary) + 8)
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    quantised = {"model.layers.0.mlp.down_proj.qweight": torch.ones(1, dtype=torch.int32)}
    whole = {"config.json": json.dumps(LLAMA).encode(), "tokenizer.json": tokenizer}
    folders: dict[str, tuple[dict[str, torch.Tensor], dict[str, bytes]]] = {
        "llama": (tensors, {}),
        "nan": (broken, {}),
        "gptq": (tensors | quantised, {}),
        "awq": (tensors, with_config(quantization_config={"quant_method": "awq"})),
        "mixture": (tensors, with_config(num_local_experts=8)),
        "unknown": (tensors, with_config(model_type="mamba")),
        "other-width": (tensors, with_config(hidden_size=8)),
        "no-config": (tensors, {"config.json": b""}),
        "no-tokenizer": (tensors, {"tokenizer.json": b""}),
        "page-for-tokenizer": (tensors, {"tokenizer.json": b"<html>Not found</html>"}),
        "gguf": ({}, {"model.gguf": b"GGUF" + bytes(60)}),
        "bin": ({}, {"pytorch_model.bin": b"PK" + bytes(60)}),
    }
    for name, (weights, files) in folders.items():
        folder = FILES / "facts" / name
        folder.mkdir(parents=True, exist_ok=True)
        if weights:
            (folder / "model.safetensors").write_bytes(save(weights))
        for file, content in (whole | files).items():
            if content:
                (folder / file).write_bytes(content)


def with_config(**changed: Any) -> dict[str, bytes]:
    return {"config.json": json.dumps(LLAMA | changed).encode()}


def tiny_llama(vocabulary: int) -> dict[str, torch.Tensor]:
    """The tensors of a Llama of two blocks, in bfloat16."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, 4),
        "model.norm.weight": (4,),
    }
    for block in range(2):
        own = f"model.layers.{block}."
        shapes |= {
            f"{own}input_layernorm.weight": (4,),
            f"{own}post_attention_layernorm.weight": (4,),
            f"{own}self_attn.q_proj.weight": (4, 4),
            f"{own}self_attn.k_proj.weight": (2, 4),
            f"{own}self_attn.v_proj.weight": (2, 4),
            f"{own}self_attn.o_proj.weight": (4, 4),
            f"{own}mlp.gate_proj.weight": (6, 4),
            f"{own}mlp.up_proj.weight": (6, 4),
            f"{own}mlp.down_proj.weight": (4, 6),
        }
    random = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=random).bfloat16() for name, shape in shapes.items()}


def checkpoints() -> None:
    """Checkpoints that are not what they should be, of a generator of 8 x 8 pixels."""
    weights = tiny_stylegan2(size=8, channels=2, latent_size=4)
    half = {
        name: (0.99 * 65504 * tensor.sign()).half() if ".conv.weight" in name else tensor.half()
        for name, tensor in weights.items()
    }
    (FILES / "half.safetensors").write_bytes(save(half))
    half["conv1.conv.weight"] = 10 * half["conv1.conv.weight"]
    (FILES / "half-overflown.safetensors").write_bytes(save(half))
    bits = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in weights.items()}
    (FILES / "eight-bits.safetensors").write_bytes(save(bits))
    fewer = {
        name: tensor
        for name, tensor in weights.items()
        if name not in ("style.2.bias", "to_rgb1.bias")
    }
    (FILES / "missing.safetensors").write_bytes(save(fewer))
    wider = weights | {
        "convs.0.conv.weight": torch.ones(1, 2, 3, 3, 3),
        "convs.1.activate.bias": torch.ones(5),
    }
    (FILES / "channels.safetensors").write_bytes(save(wider))
    classes = {"mapping.embed.weight": torch.ones(4, 3), "mapping.embed.bias": torch.ones(4)}
    named = (
        {
            nvidia_name(name): tensor.reshape(
                [n or 0 for n in nvidia_shape(name, tuple(tensor.shape))]
            )
            for name, tensor in weights.items()
        }
        | classes
        | {"mapping.fc0.weight": torch.ones(4, 8)}
    )
    (FILES / "classes.safetensors").write_bytes(save(named))
    linear = {"first": (6, 4), "last": (8, 6), "unused": (8, 6)}  # of files/points.py
    points = {f"{name}.weight": torch.ones(shape) for name, shape in linear.items()}
    points |= {f"{name}.bias": torch.ones(shape[0]) for name, shape in linear.items()}
    (FILES / "points.safetensors").write_bytes(save(points))
    (FILES / "code.pkl").write_bytes(pickle.dumps({"G_ema": Code()}, protocol=4))
    whole = pickle.dumps({"G_ema": list(range(100))}, protocol=4)
    (FILES / "truncated.pkl").write_bytes(whole[: len(whole) // 2])
    (FILES / "pickle.safetensors").write_bytes(whole)
    (FILES / "pointer.pt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    (FILES / "page.pt").write_text("<!DOCTYPE html>\n<title>404 Not Found</title>\n")


def painted_masks() -> None:
    """Masks as people paint and export them, each of which cannot be used."""
    region = Image.new("L", (32, 32))
    ImageDraw.Draw(region).rectangle((8, 8, 23, 23), fill=255)
    region.point(lambda value: value // 255).save(FILES / "label-map.png")
    region.point(lambda value: value // 3).save(FILES / "faint.png")
    deep = Image.new("I;16", (32, 32))
    deep.putpixel((9, 9), 3)
    deep.save(FILES / "label-map-16.png")
    red = Image.new("RGB", (32, 32))
    red.paste((255, 0, 0), mask=region)
    red.save(FILES / "red.png")
    labels = Image.new("P", (32, 32))
    labels.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    ImageDraw.Draw(labels).rectangle((8, 8, 23, 23), fill=1)
    ImageDraw.Draw(labels).rectangle((12, 12, 15, 15), fill=2)
    labels.save(FILES / "labels.png")
    turned = region.transpose(Image.Transpose.TRANSPOSE).point(lambda value: 255 - value)
    for ending in ("gif", "png", "webp"):
        region.save(FILES / f"film.{ending}", save_all=True, append_images=[turned], duration=100)
    region.save(FILES / "region.tif")
    (FILES / "region.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>\n')
    (FILES / "region.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (FILES / "region.avif").write_bytes(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf")
    (FILES / "region.psd").write_bytes(b"8BPS\0\x01")
    (FILES / "region.pdf").write_text("%PDF-1.7\n")
    (FILES / "region.npy").write_bytes(b"\x93NUMPY\x01\0")
    (FILES / "pointer.png").write_bytes((FILES / "pointer.pt").read_bytes())
    (FILES / "page.png").write_bytes((FILES / "page.pt").read_bytes())


def projected_latents() -> None:
    """Latents by w, in files that lack something."""
    np.savez(FILES / "projected_w.npz", w=np.ones((1, 8, 8), dtype=np.float32))
    np.savez(FILES / "several_w.npz", w=np.ones((2, 8, 8), dtype=np.float32))
    np.savez(FILES / "larger_w.npz", w=np.ones((1, 18, 512), dtype=np.float32))


def records() -> None:
    """Edit records that are wrong, each in one way."""
    folder = FILES.parent / "records"
    folder.mkdir(exist_ok=True)

    def mask(width: int = 32, height: int = 32, box: tuple[int, ...] = (8, 8, 23, 23)) -> str:
        image, buffer = Image.new("L", (width, height)), io.BytesIO()
        ImageDraw.Draw(image).rectangle(box, fill=255)
        image.save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    good = mask()
    wrong: dict[str, Any] = {
        "nothing": {},
        "object-alone": {"object": [3, good]},
        "query-alone": {"query": [3, good]},
        "a-list": [[3, good]],
        "unknown-key": {"objct": [3, good], "paste": [3, good]},
        "place-without-a-mask": {"paste": [3]},
        "place-that-is-text": {"paste": "x"},
        "keys-that-are-no-list": {"key": {"a": 1}},
        "mask-missing": {"paste": [3, None]},
        "mask-a-file": {"paste": [3, "mask.png"]},
        "mask-broken-base64": {"key": [[3, good], [4, "data:image/png;base64,iVB*"]]},
        "mask-not-an-image": {"paste": [3, "data:image/png;base64,aGVsbG8="]},
        "mask-cut-off": {"paste": [3, good[:98]]},
        "mask-empty": {"paste": [3, mask(box=(40, 40, 50, 50))]},
        "mask-of-another-aspect": {"paste": [3, mask(64, 32)]},
        "image-negative": {"paste": [-1, good]},
        "image-as-text": {"paste": ["3", good]},
        "image-beyond-the-stream": {"paste": [10**6, good]},
        "several-at-once": {"paste": [-1, "x"], "key": [1], "obect": None},
        "interventions-without-a-mask": {"3": {"value": "-5.0", "intervention": good}},
        "interventions-without-a-value": {"3": {"intervention": good, "revert": good}},
        "interventions-of-no-number": {"3": {"value": "low", "intervention": good, "revert": good}},
        "interventions-of-no-image": {
            "beyond": {"value": "-5.0", "intervention": good, "revert": good}
        },
        "interventions-never-painted": {"3": {"value": "10.0", "intervention": "", "revert": ""}},
    }
    for name, record in wrong.items():
        (folder / f"{name}.json").write_text(json.dumps(record) + "\n")
    (folder / "cut-off.json").write_text(json.dumps({"paste": [3, good]})[:60])


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims to be very large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


if __name__ == "__main__":
    main()
