"""An edit of several layers through a session: solved, and taken from the cache again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec.engine.session import STAGES, BuildSession
from editspec_runtime.core.progress import no_progress
from editspec_runtime.core.rule import CompiledEdit, ResolvedEdit
from editspec_runtime.methods.solve_edit import loss_of
from editspec_runtime.patches.patch import Patch, apply_stack


def session_of(folder: Path, weights: dict[str, Tensor]) -> BuildSession:
    """A session of a spec with an edit of layer5 and one of layer7."""
    save_file(weights, folder / "tiny.safetensors")
    place = {"latent": 1, "mask": {"box": [8, 8, 24, 24]}}
    edits = [
        {
            "name": layer,
            "layer": layer,
            "rank": 2,
            "source": {**place, "latent": 2},
            "target": place,
            "solver": {"method": "least-squares"},
        }
        for layer in ("layer5", "layer7")
    ]
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 32},
        "edits": edits,
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return BuildSession.of(folder / "spec.yaml", "cpu", no_progress)


def test_an_edit_of_two_layers_is_solved_once(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    session = session_of(tmp_path, make_tiny())
    first, second = session.compile(0), session.compile(1)
    both: CompiledEdit = replace(first, rules=[*first.rules, *second.rules])
    generator = session.current_model()

    def solve(edit: CompiledEdit) -> tuple[ResolvedEdit, Patch, float]:
        seconds = dict.fromkeys(STAGES, 0.0)
        rule, change = session.change(edit, generator, seconds)
        return rule, change, seconds["solve"]

    rule, change, seconds = solve(both)
    again, cached, nothing = solve(both)
    assert seconds > 0
    assert nothing == 0
    assert again.to_bytes() == rule.to_bytes()
    assert rule.layers == ["layer5", "layer7"]
    for name, tensor in change.tensors().items():
        assert torch.equal(cached.tensors()[name], tensor)
    assert len(change.parameters) == 2
    weights = apply_stack(session.checkpoint, [change])
    assert loss_of(rule, generator, weights) < loss_of(rule, generator, session.checkpoint)
    # The second rule was resolved on what the first left: alone, it is another.
    alone, _, _ = solve(second)
    assert not torch.equal(alone.rules[0].key, rule.rules[1].key)
