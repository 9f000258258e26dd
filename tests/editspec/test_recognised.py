"""The check of recognised pictures: by a function of the user's own, before and after an edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import editspec
from editspec_compiler.registry import spec_type
from editspec_compiler.visit import fields_by_key
from editspec_runtime.codes import Code
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import run, said

LATENTS = [1, 2, 5, 6, 7, 8]
BOX = [2, 2, 10, 10]
EDIT: dict[str, Any] = {
    "name": "one",
    "layer": "layer5",
    "rank": 4,
    "source": {"latent": 3, "mask": {"box": [4, 2, 12, 10]}},
    "target": {"latent": 1, "mask": {"box": BOX}},
    "solver": {"method": "direct", "steps": 60},
}
WEAK = {"method": "layer", "steps": 1, "learning_rate": 1e-6}
"""A solver that leaves the weights nearly as they are."""


def save(*checks: dict[str, Any], **fields: Any) -> None:
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": [{key: value for key, value in (EDIT | fields).items() if value is not None}],
        "checks": list(checks),
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def check_of(function: str = "bright", **fields: Any) -> dict[str, Any]:
    images = [{"latents": LATENTS[:4]}, {"latents": LATENTS[4:]}]
    check = {"measure": "recognised", "with": f"look:{function}", "images": images}
    return {**check, **(fields or {"at_least": 0})}


def light(*patches: object) -> list[float]:
    """How light the box is in each picture, by way of the files that `apply` writes."""
    name = "tiny.safetensors"
    if patches:
        name = "edited.safetensors"
        said("apply", "--model", "tiny.safetensors", *patches, "-o", name)
    model = StyleGAN2(read_weights(Path(name)).tensors)
    found = []
    for latent in LatentStream(1, 8).items(LATENTS):
        with torch.no_grad():
            picture = model.images(latent[None]).clamp(-1, 1)
        found.append(picture[0, :, 2:10, 2:10].mean().item())
    return found


def write_function(threshold: float, sign: int) -> None:
    Path("look.py").write_text(
        f"""
def bright(pictures):
    assert pictures.shape[1:] == (3, 16, 16) and pictures.abs().max() <= 1
    light = pictures[:, :, 2:10, 2:10].mean((1, 2, 3))
    return ({sign} * (light - {threshold}) * 1000).sigmoid()

def truth(pictures):
    return bright(pictures) > 0.5

def array(pictures):
    return truth(pictures).numpy()

def numbers(pictures):
    return bright(pictures).tolist()
"""
    )


def test_the_share_after_the_edit_is_what_the_function_says(tiny_folder: Path) -> None:
    save()
    (edit,) = said("build", "spec.yaml", "-o", "out")["edits"]
    before, after = light(), light(edit["patch"])
    # The threshold lies between the target before the edit and after it.
    threshold, sign = (before[0] + after[0]) / 2, 1 if before[0] > after[0] else -1
    write_function(threshold, sign)
    once = sum(sign * (each - threshold) > 0 for each in before)
    now = sum(sign * (each - threshold) > 0 for each in after)
    assert now < once

    save(check_of(at_most=now / 6))
    found = said("check", "spec.yaml", "-o", "out", "--allow-code")
    (row,) = found["checks"]
    assert (row["edit"], row["value"], row["status"]) == (None, now / 6, "passed")
    assert row["detail"] == f"{once} of 6 pictures before the edit, {now} after it"
    for function in ("truth", "array", "numbers"):
        save(check_of(function, at_most=now / 6, edit="one"))
        (same,) = said("check", "spec.yaml", "-o", "out", "--allow-code")["checks"]
        assert (same["edit"], same["value"], same["detail"]) == ("one", now / 6, row["detail"])

    # Without a change the same check fails, and in the other direction it passes.
    save(check_of(at_most=now / 6), solver=WEAK, rank=None)
    (left,) = said("build", "spec.yaml", "-o", "out", "--check", "--allow-code", code=1)["checks"]
    assert (left["value"], left["status"]) == (once / 6, "failed")
    assert left["detail"] == f"{once} of 6 pictures before the edit, {once} after it"
    save(check_of(at_least=once / 6), solver=WEAK, rank=None)
    assert said("check", "spec.yaml", "-o", "out", "--allow-code")["passed"] is True


def test_efficacy_of_erased_units_says_nothing_about_what_is_seen(tiny_folder: Path) -> None:
    """Two of the units are zero as asked for, and the function sees what it saw."""
    write_function(-2, 1)
    efficacy = {"measure": "efficacy", "at_least": 0.9}
    source = {"erase": {"units": 2}}
    save(efficacy, check_of(at_most=0.5), source=source, solver="ablate", rank=None)
    rows = said("check", "spec.yaml", "--allow-code", code=1)["checks"]
    assert [row["status"] for row in rows] == ["passed", "failed"]


@pytest.mark.parametrize("command", [["check"], ["build", "-o", "out", "--check"]])
@pytest.mark.parametrize("switch", [[], ["--allow-code"]])
def test_the_function_is_looked_at_before_the_work(
    tiny_folder: Path, command: list[str], switch: list[str]
) -> None:
    Path("look.py").write_text("open('trap', 'w').close()")
    save(check_of())
    result = run(*command, "spec.yaml", *switch)
    assert result.exit_code == 1
    assert "solving" not in result.stderr
    said_instead = "look:bright cannot be used: AttributeError: " if switch else "is code that is"
    assert said_instead in result.stderr
    assert Path("trap").exists() == bool(switch)
    assert not Path("out").exists()


def test_what_does_not_check_ignores_the_function(tiny_folder: Path) -> None:
    save(check_of())
    for command in (["validate"], ["plan"], ["build", "-o", "out"]):
        assert run(*command, "spec.yaml").exit_code == 0, command


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "look:bright returns nothing, expected numbers."),
        ("return {'a': 1}", "look:bright returns a value of the type dict, expected numbers."),
        ("return pictures", "returns numbers [6, 3, 16, 16] for 6 pictures, expected [6]."),
        ("return pictures.mean()", "returns numbers [] for 6 pictures, expected [6]."),
        ("return pictures[1:, 0, 0, 0]", "returns numbers [5] for 6 pictures, expected [6]."),
        ("return pictures[:, 0, 0, 0] * float('nan')", "returns NaN for 6 of 6 pictures."),
        ("return pictures[:, 0, 0, 0] * 0 + 3.5", "returns 3.5, expected numbers in 0..1."),
        ("return pictures[:, 0, 0, 0] * 0 - float('inf')", "returns -inf, expected numbers"),
        ("return pictures[:, 0, 0, 0] + 1j", "look:bright returns complex numbers."),
        (
            "raise ValueError('no such thing')",
            "look:bright fails on pictures [6, 3, 16, 16]: ValueError: no such thing.",
        ),
    ],
)
def test_a_function_that_does_not_fit_is_named(tiny_folder: Path, body: str, message: str) -> None:
    Path("look.py").write_text(f"def bright(pictures):\n    {body}\n")
    save(check_of())
    result = run("check", "spec.yaml", "--allow-code")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr.replace("\n", " ")
    assert "look:bright" in result.stderr
    assert "Traceback" not in result.stderr


def test_something_that_is_not_a_function_is_refused(tiny_folder: Path) -> None:
    Path("look.py").write_text("bright = 3")
    save(check_of())
    with editspec.allow_code(), pytest.raises(editspec.EditError, match="is not a function"):
        editspec.check("spec.yaml")
    result = run("check", "spec.yaml", "--json")
    assert json.loads(result.stdout)["error"]["code"] == Code.CODE_NOT_ALLOWED


def test_many_pictures_come_in_parts(tiny_folder: Path) -> None:
    Path("look.py").write_text(
        "def bright(pictures):\n    assert len(pictures) <= 16\n    return [True] * len(pictures)\n"
    )
    save({**check_of(), "images": [{"latents": list(range(35))}]})
    (row,) = said("check", "spec.yaml", "--allow-code")["checks"]
    assert row["value"] == 1
    assert row["detail"] == "35 of 35 pictures before the edit, 35 after it"


def test_the_key_is_that_of_the_language(tiny_folder: Path) -> None:
    """`with` is a word of Python: its field has another name, which is no key."""
    save({**check_of(), "function": "look:bright"})
    result = run("validate", "spec.yaml")
    assert result.exit_code == 2
    assert "unknown key function" in result.stderr
    assert "function" not in result.stderr.partition("known here:")[2].partition("\n")[0]
    assert {"version", "edits"} <= set(fields_by_key(spec_type("stylegan2")))
