"""Traces without counterfactuals: what changes where the context's key does not match."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.traces import KeyMatch, find_match, find_traces
from editspec_compiler.modalities.image.context import find_context_keys
from editspec_runtime.core.progress import no_progress
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import said

BOX = {"box": [2, 2, 10, 10]}
WHOLE = {"box": [0, 0, 16, 16]}
TOWERS = {"union": [{"box": [7, 5, 23, 29]}, {"box": [41, 5, 57, 29]}]}
TRACE = {"measure": "trace", "at_most": 1}


def save(*checks: dict[str, Any], **fields: Any) -> Path:
    edit = {
        "name": "one",
        "layer": "layer5",
        "rank": 4,
        "source": {"latent": 3, "mask": {"box": [4, 2, 12, 10]}},
        "target": {"latent": 1, "mask": BOX},
        "solver": {"method": "direct", "steps": 20},
    }
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": [{key: value for key, value in (edit | fields).items() if value is not None}],
        "checks": list(checks),
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    return Path("spec.yaml")


def check_one(*checks: dict[str, Any], code: int = 0, **fields: Any) -> Any:
    """The first row of a check."""
    save(*checks, **fields)
    return said("check", "spec.yaml", "--device", "cpu", code=code)["checks"][0]


class Painted(StyleGAN2):
    """A generator whose pictures are brighter in some places."""

    paint = 0.0

    def images(self, latents: Tensor) -> Tensor:
        return super().images(latents) * 0 + self.paint


def paint(tiny: dict[str, Tensor], light: Tensor | float) -> Painted:
    painted = Painted(tiny)
    painted.paint = light
    return painted


@pytest.mark.parametrize(("spot", "seen"), [((2, 2), True), ((1, 3), False)])
def test_a_spot_of_four_pixels_is_seen_and_one_of_three_is_not(
    tiny: dict[str, Tensor], spot: tuple[int, int], seen: bool
) -> None:
    light = torch.zeros(32, 32)
    light[10 : 10 + spot[0], 20 : 20 + spot[1]] = 1.0
    before, after = paint(tiny, 0), paint(tiny, light)
    latents = LatentStream(1, 8).items(range(2))
    allowed = torch.zeros(2, 32, 32)
    # Of the second picture the spot is allowed.
    allowed[1, 10:12, 20:23] = 1
    found = find_traces(before, after, latents, allowed)
    assert found.are_visible(0.1).tolist() == [seen, False]
    assert found.share(0.1) == seen / 2
    assert found.change[0].sum() == pytest.approx(spot[0] * spot[1])
    assert found.change[1].sum() == 0
    assert found.rank() == [0, 1]


def test_half_a_mask_allows_half_a_change(tiny: dict[str, Tensor]) -> None:
    before, after = paint(tiny, 0), paint(tiny, 0.15)
    latents = LatentStream(1, 8).items([0])
    for share, seen in ((0.0, True), (0.5, False)):
        found = find_traces(before, after, latents, torch.full((1, 32, 32), share))
        assert bool(found.are_visible(0.1)) is seen


def test_pixels_at_positions_that_match_and_next_to_them_may_change(tiny_folder: Path) -> None:
    session = BuildSession.of(save(context=[{"latent": 1, "mask": BOX}]), "cpu", no_progress)
    model = generator_of(session)
    match = find_match(session, 0, model)
    keys, weights = find_context_keys(session.loaded, 0, model)
    mean = (weights @ keys / weights.sum()).double()
    # C^-1 k without the root that the product takes.
    direction = torch.linalg.solve(session.moment(model, "layer5"), mean)
    latents = LatentStream(5, 8).items(range(6))
    allowed = match.find_allowed(model, latents)
    for latent, found in zip(latents, allowed, strict=True):
        key = model.trace("layer5", latent[None]).key[0].double()
        hot = torch.einsum("chw,c->hw", key, direction) >= mean @ direction - 1e-5
        wide = F.max_pool2d(hot.double()[None, None], 3, 1, 1)
        size = found.shape[-1] // hot.shape[-1]
        assert torch.equal(
            found, wide[0, 0].repeat_interleave(size, 0).repeat_interleave(size, 1) > 0
        )
    assert 0 < allowed.double().mean() < 1
    # Nothing matches a key that no position reaches.
    unreachable = replace(match, least=float("inf"))
    assert not unreachable.find_allowed(model, latents).any()


def test_a_position_that_covers_many_pixels_and_one_that_covers_less_than_one(
    tiny_folder: Path,
) -> None:
    session = BuildSession.of(save(), "cpu", no_progress)
    model = generator_of(session)
    latents = LatentStream(1, 8).items([0])
    for layer in ("layer2", "layer5"):
        direction = torch.zeros(model.layer(layer).in_features)
        allowed = KeyMatch(layer, direction, 0.0).find_allowed(model, latents)
        assert allowed.shape == (1, 16, 16)
        assert allowed.all()


def test_the_check_counts_pictures_that_change_elsewhere(tiny_folder: Path) -> None:
    row = check_one(TRACE)
    facts = row["facts"]
    assert facts["pictures"] == 64
    assert 0 < facts["allowed"] < 1
    assert list(facts["thresholds"]) == ["0.06", "0.1", "0.15", "0.2", "0.3"]
    shares = list(facts["thresholds"].values())
    assert shares == sorted(shares, reverse=True)
    assert row["value"] == facts["thresholds"]["0.1"]
    changes = [each["change"] for each in facts["worst"]]
    assert len(changes) == 5
    assert changes == sorted(changes, reverse=True)
    assert row["detail"].startswith(f"{round(64 * row['value'])} of 64 pictures")
    assert row["value"] > 0.1
    assert check_one({**TRACE, "at_most": 0.05}, code=1)["status"] == "failed"
    # Negative control: an edit that changes nothing leaves no trace.
    weak = {"method": "layer", "steps": 1, "learning_rate": 1e-6}
    assert check_one(TRACE, solver=weak, rank=None)["value"] == 0


def test_the_target_and_what_the_masks_name_may_change(tiny_folder: Path) -> None:
    def allowed(latents: list[Any], mask: Any = None, **fields: Any) -> float:
        images = [{"latents": latents} | ({} if mask is None else {"mask": mask})]
        share: float = check_one({**TRACE, "images": images}, **fields)["facts"]["allowed"]
        return share

    # Whatever the key matches in the image of the target, its place may change.
    elsewhere = {"context": [{"latent": 5, "mask": {"box": [12, 12, 16, 16]}}]}
    target = allowed([1], **elsewhere)
    moved = {"target": {"latent": 2, "mask": BOX}, **elsewhere}
    assert target > allowed([1], **moved)
    assert allowed([7], BOX, **elsewhere) > allowed([7], **elsewhere)
    vector = LatentStream(1, 8).items([7])[0].tolist()
    row = check_one({**TRACE, "images": [{"latents": [7, vector]}]}, **elsewhere)
    assert {each["image"] for each in row["facts"]["worst"]} == {7, "images[0].latents[1]"}
    assert len({each["change"] for each in row["facts"]["worst"]}) == 1
    # Where everything may change, nothing is measured, and the check fails.
    row = check_one({**TRACE, "images": [{"latents": [7], "mask": WHOLE}]}, code=1)
    assert row["value"] is None
    assert "may change everywhere" in row["detail"]


def test_an_edit_that_paints_suns_and_spires_elsewhere_is_found(tmp_path: Path) -> None:
    """Of the first recipe for spires nearly every picture had a trace."""
    context = [{"latent": number, "mask": TOWERS} for number in (8, 18, 21, 24)]
    edit = {
        "name": "dome-to-spire",
        "layer": "layer7",
        "rank": 16,
        "source": {"latent": 1268, "mask": TOWERS},
        "target": {"latent": 1932, "mask": TOWERS},
        "context": context,
        "solver": {"method": "projected-gradient", "steps": 40, "project_every": 1},
    }
    images = [{"latents": list(range(5000, 5016))}]
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "builtin:skyline"},
        "statistics": {"samples": 100},
        "edits": [edit],
        "checks": [{"measure": "trace", "at_most": 0.5, "images": images}],
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    (row,) = said("check", path, "--device", "cpu", code=1)["checks"]
    assert row["value"] >= 0.8
    assert row["facts"]["thresholds"]["0.2"] >= 0.4
