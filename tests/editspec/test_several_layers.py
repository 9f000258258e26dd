"""Edits of several layers, and several edits, through a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec.engine import solution
from editspec.engine.session import STAGES, BuildSession
from editspec_runtime.core.method import Problem
from editspec_runtime.core.progress import no_progress
from editspec_runtime.core.rule import CompiledEdit, ResolvedEdit
from editspec_runtime.errors import PatchError
from editspec_runtime.io.files import safetensors_bytes
from editspec_runtime.methods.solve_edit import Solution, loss_of
from editspec_runtime.patches.patch import Patch, apply_stack, read_patch


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


def test_a_patch_of_several_layers_names_them(
    make_tiny: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = session_of(tmp_path, make_tiny())
    first, second = session.compile(0), session.compile(1)
    both = replace(first, rules=[*first.rules, *second.rules])
    monkeypatch.setattr(BuildSession, "compile", lambda self, number: both)
    built = session.solve(0)
    assert "layer" not in built.patch.metadata
    assert built.patch.metadata["layers"] == ["layer5", "layer7"]
    path = tmp_path / "both.safetensors"
    path.write_bytes(built.patch.to_bytes())
    assert read_patch(path).layers == ["layer5", "layer7"]
    unnamed = {name: value for name, value in built.patch.metadata.items() if name != "layers"}
    path.write_bytes(safetensors_bytes(built.patch.tensors(), unnamed))
    with pytest.raises(PatchError, match="lacks layer or layers"):
        read_patch(path)


def test_a_method_is_given_the_rules_of_earlier_edits(
    make_tiny: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []
    solve_edit = solution.solve_edit

    def record(problem: Problem) -> Solution:
        seen.append([rule.layer for rule in problem.earlier])
        return solve_edit(problem)

    monkeypatch.setattr(solution, "solve_edit", record)
    session = session_of(tmp_path, make_tiny())
    built = [session.edit(number) for number in (0, 1)]
    assert seen == [[], ["layer5"]]
    (earlier,) = session.after(1).earlier
    assert torch.equal(earlier.key, built[0].rule.rules[0].key)
    # At its beginning a session has no earlier edits; a patch that is taken brings its rule along.
    again = session.rewind(built)
    assert again.earlier == []
    taken = again.edit(0)
    assert taken.patch.metadata["content"] == built[0].patch.metadata["content"]
    assert [rule.layer for rule in again.earlier] == ["layer5"]
