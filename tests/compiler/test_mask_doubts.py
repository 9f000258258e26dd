"""Masks that can be used, and may not be what was meant: validate, plan and build say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from editspec_compiler import load
from editspec_runtime.codes import Code
from tests.commands import run, said

SIDE = 16
"""The size of the images of `tiny_spec`."""


@pytest.fixture
def spec(tmp_path: Path, tiny_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the spec with a painted mask as its target, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(*marks: tuple[int, int, int, int, int], **fields: Any) -> Path:
        path = tiny_spec(tmp_path)
        Image.fromarray(paint(*marks)).save("mask.png")
        content = json.loads(path.read_text()) | fields
        content["edits"][0]["target"] = {"latent": 1, "mask": "mask.png"}
        path.write_text(json.dumps(content))
        return path

    return write


def paint(*marks: tuple[int, int, int, int, int]) -> Any:
    """Paint boxes [left, top, right, bottom] of a value."""
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for left, top, right, bottom, value in marks:
        pixels[top:bottom, left:right] = value
    return pixels


REGION = (4, 4, 8, 8, 255)
SPECK = (15, 15, 16, 16, 1)
WHOLE = (0, 0, 16, 15, 255)


def codes(path: Path) -> list[Code]:
    return [problem.code for problem in load(path).warnings]


def test_a_plain_mask_is_not_doubted(spec: Any) -> None:
    assert codes(spec(REGION)) == []
    assert codes(spec(REGION, (10, 10, 14, 14, 255))) == []  # two parts that are both meant
    assert codes(spec((2, 2, 10, 10, 120), REGION)) == []  # a soft edge
    assert codes(spec(REGION, (9, 5, 10, 6, 3))) == []  # noise beside the edge


@pytest.mark.parametrize("speck", [SPECK, (15, 0, 16, 1, 20), (0, 12, 2, 13, 9)])
def test_specks_are_named(spec: Any, speck: Any) -> None:
    (warning,) = load(spec(REGION, speck)).warnings
    assert warning.code == Code.MASK_SPECKS
    assert f"x = {(speck[0] + speck[2]) // 2}" in warning.message
    assert f"y = {(speck[1] + speck[3]) // 2}" in warning.message


def test_a_mask_of_nearly_the_whole_image_is_named(spec: Any) -> None:
    assert codes(spec(WHOLE)) == [Code.MASK_NEARLY_WHOLE]
    assert codes(spec((0, 0, 16, 14, 255))) == []
    assert codes(spec((0, 0, 16, 16, 20), REGION)) == [Code.MASK_NEARLY_WHOLE]


@pytest.mark.parametrize("command", ["validate", "plan", "build"])
def test_commands_tell_of_doubts(spec: Any, command: str) -> None:
    options = ["-o", "out"] if command == "build" else []
    path = spec(REGION)
    assert said(command, path.name, *options)["warnings"] == []
    assert "warning" not in run(command, path.name, *options).stdout
    path = spec(REGION, SPECK)
    (warning,) = said(command, path.name, *options)["warnings"]
    assert (warning["path"], warning["code"]) == ("edits[0].target.mask", Code.MASK_SPECKS)
    told = run(command, path.name, *options).stdout
    assert f"warning: {path.name}:1:" in told
    assert "edits[0].target.mask: a speck lies apart" in told


def region_of(path: Path) -> list[int]:
    region: list[int] = said("compile", path.name, "-o", "rules")["edits"][0]["region"]
    return region


def test_a_speck_moves_no_paste(spec: Any) -> None:
    alone = region_of(spec(REGION))
    assert region_of(spec(REGION, SPECK)) == alone
    # The authors' code counts all that is not zero, and a bright part is meant.
    legacy = {"compatibility": "rewriting-2020"}
    assert region_of(spec(REGION, SPECK, **legacy)) != region_of(spec(REGION, **legacy))
    assert region_of(spec(REGION, (12, 12, 16, 16, 255))) != alone


def asked(path: Path) -> tuple[float, float]:
    """How much of V* is asked for, and the efficacy."""
    built = said("build", path.name, "-o", "out", "--check")
    (edit,), (row,) = built["edits"], built["checks"]
    warned = any("The masks ask for" in warning for warning in edit["warnings"])
    assert warned == (edit["asked"] < 0.5)
    return edit["asked"], row["value"]


def test_an_edit_that_asks_for_little_scores_little(spec: Any) -> None:
    fields: dict[str, Any] = {"checks": [{"measure": "efficacy", "at_least": 0}]}
    path = spec(REGION, **fields)
    content = json.loads(path.read_text())
    edit = content["edits"][0]
    edit["solver"] = {"method": "least-squares", "collateral_weight": 1e-6}
    edit["rank"] = 4
    edit["context"] = [{"latent": 1, "mask": {"box": [2, 2, 10, 10]}}]

    def scored(box: list[float]) -> tuple[float, float]:
        edit["target"]["mask"] = edit["source"]["mask"] = {"box": box}
        path.write_text(json.dumps(content))
        return asked(path)

    share, efficacy = scored([4, 4, 8, 8])
    assert share == 1
    assert efficacy > 0.6
    share, efficacy = scored([4.5, 4.5, 4.625, 4.625])
    assert share < 0.1
    assert efficacy < 0.1
