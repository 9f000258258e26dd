"""The studio on a spec without edits: the model is shown, and the first edit can be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from editspec_compiler.document import parse

HEAD = "version: 1\nmodel: {family: stylegan2, weights: builtin:skyline}\n"


@pytest.mark.parametrize("end", ["", "edits: []\n", "edits:\n"])
def test_a_spec_without_edits_is_opened_and_gets_its_first(
    make_studio: Callable[..., Any], end: str
) -> None:
    studio = make_studio(HEAD + end)
    state = studio.call("GET", "spec")
    assert (state["edits"], state["problems"]) == ([], [])
    state = studio.call("POST", "edits", {})
    assert [edit["name"] for edit in state["edits"]] == ["edit-1"]
    assert parse(studio.draft.text).data["model"]["weights"] == "builtin:skyline"
