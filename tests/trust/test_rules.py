"""Rule files of others: what their content is not is refused, and never a defect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from benchmarks.fuzz import whole_rule
from editspec import inspect
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import safetensors_bytes
from editspec_runtime.methods.rule_file import read_rule

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def write(path: Path, change: Change) -> Path:
    """A whole rule file with a change of its metadata or tensors."""
    whole = whole_rule()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    metadata, tensors = json.loads(header["__metadata__"]["editspec"]), load(whole)
    change(metadata, tensors)
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


def test_a_whole_rule_is_read(tmp_path: Path) -> None:
    first, second = read_rule(write(tmp_path / "r.safetensors", lambda *_: None)).rules
    assert first.refinement is not None
    assert first.refinement.steps == 20
    assert first.preserved is not None
    assert second.units == (0, 3)


METADATA: dict[str, Change] = {
    "a name that is a list": lambda metadata, _: metadata.update(name=["e"]),
    "a rank that is true": lambda metadata, _: metadata.update(rank=True),
    "a provenance that is a text": lambda metadata, _: metadata.update(provenance="x"),
    "an unknown field": lambda metadata, _: metadata.update(kind="patch"),
    "rules that are a number": lambda metadata, _: metadata.update(rules=2),
    "units below 0": lambda metadata, _: metadata["rules"][1].update(units=[-1]),
    "steps without end": lambda metadata, _: metadata["rules"][0]["refinement"].update(steps=1e9),
    "details that are a list": lambda metadata, _: metadata["rules"][0].update(details=[]),
}
CONTENT: dict[str, Change] = {
    "a solver that is none": lambda metadata, _: metadata.update(solver={"method": ["direct"]}),
    "a tensor that no rule has": lambda _, tensors: tensors.update({"0.x": torch.ones(1)}),
    "a number before the first": lambda _, tensors: tensors.update({"-1.x": torch.ones(1)}),
    "a number written otherwise": lambda _, tensors: tensors.update({"00.x": torch.ones(1)}),
    "a rule too many": lambda _, tensors: tensors.update({"7.key": torch.ones(1)}),
    "a key that is missing": lambda _, tensors: tensors.pop("0.key"),
    "a share that is missing": lambda _, tensors: tensors.pop("0.preserved.key_weights"),
    "an output that is missing": lambda _, tensors: tensors.pop("0.refinement.kept"),
    "a context of whole numbers": lambda _, tensors: tensors.update(
        {"0.context.key": torch.ones(4, 4, dtype=torch.int64)}
    ),
    "more weights than keys": lambda _, tensors: tensors.update(
        {"0.context.weight": torch.ones(9)}
    ),
}


@pytest.mark.parametrize(
    "change", [*METADATA.values(), *CONTENT.values()], ids=[*METADATA, *CONTENT]
)
def test_what_no_build_writes_is_refused(tmp_path: Path, change: Change) -> None:
    with pytest.raises(FileError, match="rule"):
        read_rule(write(tmp_path / "r.safetensors", change))


@pytest.mark.parametrize("change", METADATA.values(), ids=METADATA)
def test_inspect_refuses_other_fields(tmp_path: Path, change: Change) -> None:
    path = write(tmp_path / "r.safetensors", change)
    with pytest.raises(FileError, match="rule"):
        inspect(path)
