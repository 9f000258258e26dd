"""The edits of the spec, in their order."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from editspec.studio import spec_editor
from editspec.studio.refusals import Missing
from editspec.studio.routers.shared import CurrentStudio, Number, Revision
from editspec.studio.schemas import EditChange, OnRevision, State
from editspec_runtime.errors import UsageError

LAYERS = ("layer", "layers")
"""The fields that name the layers of an edit, of which it has one."""

INHERITED = (*LAYERS, "rank", "solver")
"""The fields that a new edit takes from the edit before it."""

CHANGEABLE = ("name", "layer", "rank", "solver")
"""The fields that a form can change."""

router = APIRouter(prefix="/api/edits")


@router.post("")
def add_edit(studio: CurrentStudio, body: OnRevision) -> State:
    """Add an edit at the end, like the one before it."""
    draft = studio.draft
    proposed = studio.engine.modality.new_edit(studio.engine.base().model.architecture)
    edits = draft.edits()
    last = edits[-1] if edits and isinstance(edits[-1], dict) else {}
    inherited = {key: last[key] for key in INHERITED if key in last}
    if not proposed.keys().isdisjoint(LAYERS) and not inherited.keys().isdisjoint(LAYERS):
        proposed = {key: value for key, value in proposed.items() if key not in LAYERS}
    item: dict[str, Any] = {"name": _find_name(edits), **proposed, **inherited}
    return studio.rewrite(body.revision, lambda text: spec_editor.add_edit(text, draft.file, item))


@router.patch("/{number}")
def change_edit(studio: CurrentStudio, number: Number, body: EditChange) -> State:
    """Rename, change, switch or move an edit."""
    draft = studio.draft
    given = {key: getattr(body, key) for key in CHANGEABLE}
    fields = {key: value for key, value in given.items() if value is not None}
    further = body.fields or {}
    known = set(studio.engine.modality.edit_type.model_fields)
    if unknown := sorted(set(further) - known):
        raise UsageError(f"An edit has no {unknown[0]}.", f"It has {', '.join(sorted(known))}.")

    def rewrite_text(text: str) -> str:
        count = len(draft.edits())
        draft.edit(number)
        # Asked before the text changes: a rewritten block may have other lines.
        was_off = draft.switched_off()[number]
        if fields:
            text = spec_editor.put_fields(text, draft.file, number, fields)
        text = spec_editor.put_values(text, draft.file, number, further)
        if body.off is not None and body.off != was_off:
            text = spec_editor.switch_edit(text, draft.file, number, off=body.off)
        if body.position is not None:
            position = min(body.position, count - 1)
            text = spec_editor.move_edit(text, draft.file, number, position)
        return text

    return studio.rewrite(body.revision, rewrite_text)


@router.delete("/{number}")
def remove_edit(studio: CurrentStudio, number: Number, revision: Revision) -> State:
    """Remove an edit from the spec."""
    draft = studio.draft

    def rewrite_text(text: str) -> str:
        draft.edit(number)
        return spec_editor.remove_edit(text, draft.file, number)

    return studio.rewrite(revision, rewrite_text)


@router.delete("/{number}/preserve")
def forget_preserved(studio: CurrentStudio, number: Number, revision: Revision) -> State:
    """Let an edit preserve nothing."""
    draft = studio.draft

    def rewrite_text(text: str) -> str:
        if "preserve" not in draft.edit(number):
            raise Missing(f"Edit {number} preserves nothing.")
        return spec_editor.put_values(text, draft.file, number, {"preserve": None})

    return studio.rewrite(revision, rewrite_text)


def _find_name(edits: list[Any]) -> str:
    """Find a name that no edit has yet."""
    names = {edit.get("name") for edit in edits if isinstance(edit, dict)}
    number = 1
    while f"edit-{number}" in names:
        number += 1
    return f"edit-{number}"
