"""What a spec names may be anything at all: it is used, or refused in place, and never breaks the
compiler.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from editspec_compiler import SpecError, load
from editspec_compiler.document import parse
from editspec_compiler.modalities.image.mask_areas import mask_area
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.schema import BoxMask, PolygonMask
from editspec_runtime.errors import FileError

FILES = Path(__file__).parents[1] / "invalid" / "files"

Load = Callable[..., Any]


@pytest.fixture
def load_with(tmp_path: Path) -> Load:
    """Loads a valid spec (JSON, in an empty folder) with one source place and the weights
    replaced.
    """

    def load_(
        latent: Any = 1,
        mask: Any = None,
        weights: str = str(FILES / "tiny.safetensors"),
        **top: Any,
    ) -> Any:
        target = {"latent": 2, "mask": {"box": [4, 4, 12, 12]}}
        source = {"latent": latent, "mask": target["mask"] if mask is None else mask}
        edit = {"name": "e", "layer": "layer6", "source": source, "target": target}
        model = {"family": "stylegan2", "weights": weights}
        path = tmp_path / "spec.json"
        path.write_text(json.dumps({"version": 1, "model": model, "edits": [edit], **top}))
        return load(path)

    return load_


def test_what_is_fine_is_loaded(load_with: Load, tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", np.ones((1, 8)))
    for latent in (0, 2**64 - 1, [0, 1, 2, 3, 4, 5, 6, 7.5], {"file": "row.npy"}):
        assert load_with(latent).spec.edits[0].source.latent is not None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(8) * 1j, "complex128 values"),
        (np.array(["a"] * 8), "<U1 values"),
        (np.arange(8), "int64 values"),
        (np.ones((4, 2)), "4 x 2 numbers"),
        (np.ones(7), "has 8 numbers, found 7"),
        (np.float32(1), "found 1"),
        (np.full(8, np.nan), "not"),
        (np.full(8, 1e39), "finite float32"),
        (np.array([None] * 8), "Python objects"),
    ],
)
def test_arrays_that_are_no_latent(
    load_with: Load, tmp_path: Path, array: Any, message: str
) -> None:
    np.save(tmp_path / "z.npy", array, allow_pickle=True)
    with pytest.raises(SpecError, match=message):
        load_with({"file": "z.npy"})


def test_an_array_that_claims_to_be_huge_costs_nothing(load_with: Load, tmp_path: Path) -> None:
    header = (
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    )
    (tmp_path / "z.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(SpecError, match="holds no latent that can be read"):
        load_with({"file": "z.npy"})


@pytest.mark.parametrize("dtype", ["I64", "F8_E4M3"])
def test_tensors_that_are_no_latent(load_with: Load, tmp_path: Path, dtype: str) -> None:
    data = bytes(8 * {"I64": 8, "F8_E4M3": 1}[dtype])
    header = json.dumps(
        {"z": {"dtype": dtype, "shape": [8], "data_offsets": [0, len(data)]}}
    ).encode()
    (tmp_path / "z.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    with pytest.raises(SpecError, match=f"holds {dtype} values"):
        load_with({"file": "z.safetensors"})


@pytest.mark.parametrize("latent", [[1e39] * 8, [10**400] * 8, 2**64])
def test_numbers_that_are_too_large(load_with: Load, latent: Any) -> None:
    with pytest.raises(SpecError, match=r"edits\[0\]\.source\.latent"):
        load_with(latent)


@pytest.mark.parametrize("name", ["a" * 300, "~nosuchuser/x", "a\0b", "", "/dev/null"])
def test_names_that_no_file_can_have(load_with: Load, name: str) -> None:
    for named in ({"mask": name}, {"latent": {"file": name}}, {"weights": name}):
        with pytest.raises((SpecError, FileError)):
            load_with(**named)


@pytest.mark.parametrize("key", ["direct", "@box", "@x", "projected-gradient", ""])
def test_unknown_keys_that_look_like_something_else(load_with: Load, key: str) -> None:
    with pytest.raises(SpecError, match="unknown key") as error:
        load_with(**{key: 1})
    assert error.value.problems[0].path == (key,)


@pytest.mark.parametrize("version", [True, 1.0, "1"])
def test_what_is_equal_to_the_version_is_not_the_version(load_with: Load, version: Any) -> None:
    with pytest.raises(SpecError, match="version: expected 1, found"):
        load_with(version=version)


def test_damaged_weights_hide_no_mistake_in_the_spec(load_with: Load) -> None:
    damaged = str(FILES / "corrupt.safetensors")
    with pytest.raises(FileError):
        load_with(weights=damaged)
    with pytest.raises(SpecError, match="unknown key rnak"):
        load_with(weights=damaged, rnak=1)


def test_shapes_are_not_measured_before_the_size_of_the_image_is_known(
    load_with: Load, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    mask = {"box": [100, 100, 200, 200]}
    assert load_with(mask=mask, weights="model.pt").architecture is None
    with pytest.raises(SpecError, match="lies outside of the image"):
        load_with(mask=mask)


def test_a_polygon_covers_what_the_box_covers() -> None:
    corners = [[8.0, 8.0], [24.0, 8.0], [24.0, 24.0], [8.0, 24.0]]
    for legacy in (False, True):
        polygon = mask_area(PolygonMask(polygon=corners), Path(), 64, 64, legacy=legacy)
        assert np.array_equal(
            polygon, mask_area(BoxMask(box=[8, 8, 24, 24]), Path(), 64, 64, legacy=legacy)
        )
    with pytest.raises(MaskError, match="no area"):
        mask_area(PolygonMask(polygon=[[1, 1], [5, 5], [9, 9]]), Path(), 64, 64, legacy=False)


@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "JPEG", "WEBP"])
def test_damaged_images_are_refused_or_read(format_: str, tmp_path: Path) -> None:
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(tmp_path / "m", format_)
    whole = (tmp_path / "m").read_bytes()
    random = np.random.RandomState(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            raw = bytearray(whole[: random.randint(1, len(whole) + 1)])
            raw[random.randint(len(raw))] = random.randint(256)
            (tmp_path / "m").write_bytes(raw)
            for legacy in (False, True):
                try:
                    found = mask_area("m", tmp_path, 32, 8, legacy=legacy)
                except MaskError:
                    continue
                assert np.isfinite(found).all()


def test_an_odd_palette_is_no_warning(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32))
    image.putpalette([255] * 768)
    image.save(tmp_path / "m.png", transparency=bytes([128] * 256))
    assert mask_area("m.png", tmp_path, 32, 8, legacy=True).min() == 1
    assert np.allclose(mask_area("m.png", tmp_path, 32, 8, legacy=False), 128 / 255)


def test_an_error_cannot_steer_the_terminal() -> None:
    with pytest.raises(SpecError) as error:
        parse('a: !!foo 1\nb: "\\e[31m', "x\x1b[31m.yaml")
    assert str(error.value).isascii()
    assert "\x1b" not in str(error.value)


def test_a_forbidden_character_is_shown_in_place() -> None:
    with pytest.raises(SpecError, match=r"<spec>:2:4: the character U\+0007"):
        parse("a: 1\nb: \x07")


def test_valid_json_is_read_however_it_is_broken_into_lines() -> None:
    text = '{"a"\n\t:\n[1, {"' + "b" * 3000 + '" :2}]}'
    assert parse(text, "x.json").data == json.loads(text)


def test_more_values_than_anyone_means_are_refused_early() -> None:
    with pytest.raises(SpecError, match="more than 50000 values"):
        parse("a: [" + "x," * 200_000 + "]")
