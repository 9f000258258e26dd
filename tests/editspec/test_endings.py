"""Files are what the ending of their name says, or are refused before the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import contents, run, said

FORMATS = {
    "a.png": "PNG",
    "a.jpg": "JPEG",
    "a.JPEG": "JPEG",
    "a.webp": "WEBP",
    "a": "PNG",
    "a-1.5": "PNG",
}


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_spec: Callable[..., Path], one_cache: None
) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path)
    return tmp_path


def pictures(out: str) -> list[list[str]]:
    """The commands that draw a picture, with its path."""
    search = ["search", "spec.yaml", "--images", "8", "--count", "2"]
    diff = ["diff", "tiny.safetensors", "tiny.safetensors", "--picture", out]
    sample = ["sample", "spec.yaml", "-o", out, "--count", "2"]
    return [["render", "spec.yaml", "-o", out, "--count", "1"], [*search, "-o", out], diff, sample]


@pytest.mark.parametrize("out", FORMATS)
def test_a_picture_has_the_format_of_its_name_and_may_be_drawn_again(out: str) -> None:
    for command in pictures(out):
        assert run(*command).exit_code == 0
        with Image.open(out) as image:
            assert image.format == FORMATS[out]
            assert max(image.size) > 16
    first = Path(out).read_bytes()
    Image.new("RGB", (8, 8)).save(out, FORMATS[out])
    foreign = Path(out).read_bytes()
    for command in pictures(out):
        result = run(*command)
        assert (result.exit_code, "is in the way" in result.stderr) == (1, True)
    assert Path(out).read_bytes() == foreign != first


@pytest.mark.parametrize("ending", ["gif", "bmp", "tiff", "pdf", "svg", "avif", "safetensors"])
def test_other_formats_of_pictures_are_refused(ending: str) -> None:
    before = contents(Path())
    for command in pictures(f"b.{ending}"):
        result = run(*command)
        assert (result.exit_code, ".png" in result.stderr) == (2, True)
    assert contents(Path()) == before


def test_a_picture_too_large_for_its_format_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from editspec.modalities.image import pictures as module
    from editspec_runtime.errors import FileError

    for ending, side in ((".webp", 16384), (".jpg", 65536)):
        with pytest.raises(FileError, match=str(side)):
            module.picture_bytes(Image.new("L", (side, 1)), Path(f"a{ending}"))
    assert module.picture_bytes(Image.new("RGB", (16383, 1)), Path("a.webp"))


def test_other_files_have_the_ending_of_their_kind() -> None:
    patch = said("build", "spec.yaml", "-o", "out")["edits"][0]["patch"]
    before = contents(Path())
    base = ["--model", "tiny.safetensors"]
    for command in (
        ["compose", patch, "-o", "one.pt"],
        ["compose", patch, "-o", "one.yaml"],
        ["export", patch, "--format", "delta", "-o", "delta.pt"],
        ["export", patch, "--format", "full", *base, "-o", "full.pkl"],
        ["export", patch, "--format", "peft", "-o", "adapter.safetensors"],
        ["export", "spec.yaml", "--format", "record", "-o", "record.yaml"],
        ["check", "spec.yaml", "--junit", "checks.md"],
        ["check", "spec.yaml", "--markdown", "checks.xml"],
        ["build", "spec.yaml", "-o", "new", "--check", "--junit", "checks.json"],
    ):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (2, ""), (command, result.stderr)
        assert "ending" in result.stderr or "ends in" in result.stderr
    assert contents(Path()) == before
    Path("record.json").write_text(json.dumps({"object": [0, "x"], "paste": [0, "x"], "key": []}))
    arguments = ["--family", "stylegan2", "--weights", "tiny.safetensors", "--layer", "layer5"]
    result = run("import", "record.json", "-o", "spec.json", *arguments)
    assert (result.exit_code, ".yaml" in result.stderr) == (2, True)
    for ending in ("", ".safetensors", ".SAFETENSORS"):
        assert run("compose", patch, "-o", f"one{ending}").exit_code == 0
