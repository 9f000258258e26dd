"""What the runtime knows of a family, it knows from the family's entry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from editspec_runtime.errors import UsageError, WeightsError
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.registry import FAMILIES, loading_fields
from editspec_runtime.modalities.image.generator import require_generator
from tests.toy_text import FAMILY, registered


def test_fields_that_load_a_network_are_fields_of_the_family() -> None:
    for family in FAMILIES.values():
        assert set(family.loading) <= set(family.load_fields().model_fields), family.name
        # A family that can run code says which of its fields name this code.
        assert not family.runs_code or set(family.loading) > {"weights"}, family.name


def test_a_new_family_adds_its_fields_and_its_checkpoints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "tokenizer" not in loading_fields()
    other = replace(
        FAMILIES["proggan"], name="other", loading=("weights", "tokenizer"), prefix="whole."
    )
    monkeypatch.setitem(FAMILIES, "other", other)
    assert "tokenizer" in loading_fields()
    path = tmp_path / "x.pt"
    torch.save({"epoch": 3}, path)
    with pytest.raises(WeightsError, match=r"expected .*whole, state_dict.* found epoch") as error:
        read_weights(path)
    assert error.value.hint
    torch.save({"whole": {"a": torch.ones(2)}}, path)
    assert list(read_weights(path)) == ["a"]


def test_a_model_that_draws_no_images_is_a_model_and_not_a_generator() -> None:
    weights = {
        "embedding.weight": torch.ones(27, 4),
        "first.weight": torch.ones(6, 4),
        "second.weight": torch.ones(27, 6),
    }
    with registered():
        model = make_model(FAMILY, weights)
    assert model.architecture.layers
    with pytest.raises(UsageError, match="does not draw images"):
        require_generator(model)
