"""Makes the files that the examples of bad input name: ``python tests/make_examples.py``; they are kept in git."""

from __future__ import annotations

import importlib.util
import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save

FILES = Path(__file__).parent / "invalid" / "files"


class Code:
    """What a malicious pickle holds: it makes the file `trap` where it is read."""

    def __reduce__(self) -> Any:
        return (open, ("trap", "w"))


def main() -> None:
    FILES.mkdir(exist_ok=True)
    conftest = Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("conftest", conftest)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    weights = module._tiny_stylegan2()
    whole = save(weights)
    (FILES / "tiny.safetensors").write_bytes(whole)
    (FILES / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (FILES / "corrupt.safetensors").write_bytes(whole[:8] + b"}" + whole[9:])
    (FILES / "other-layout.safetensors").write_bytes(save({"layer1.conv.weight": torch.ones(2, 2)}))
    weights["convs.0.conv.weight"][0, 1, 2] = float("nan")
    (FILES / "nan.safetensors").write_bytes(save(weights))
    (FILES / "code.pt").write_bytes(pickle.dumps({"g_ema": Code()}, protocol=2))
    (FILES / "latent.safetensors").write_bytes(save({"z": torch.ones(5)}))

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


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims to be very large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


if __name__ == "__main__":
    main()
