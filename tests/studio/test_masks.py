"""Masks are drafts until Save; then the project holds those that the spec names, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.studio.conftest import towers

BOX = {"box": [8, 8, 23, 29]}


def files(folder: Path) -> set[str]:
    """The names of the masks in a folder, as a spec has them."""
    return {f"masks/{path.name}" for path in (folder / "masks").glob("*.png")}


def names(studio: Any) -> list[str]:
    """The masks of the first edit: its source, its target, its context."""
    (edit, *_) = studio.draft.edits()
    places = [edit.get("source"), edit.get("target"), *edit.get("context", [])]
    return [place["mask"] for place in places if place is not None]


def test_masks_are_written_when_the_spec_is_and_equal_ones_are_one(studio: Any) -> None:
    project = studio.path.parent
    studio.make_edit(context=(8, 18))
    assert len(set(names(studio))) == 1
    assert files(project) == set()
    assert files(project / ".edits.yaml.studio") == set(names(studio))
    # The draft can be executed, drawn and checked all the same.
    assert studio.call("GET", "spec")["problems"] == []
    assert studio.run("execute")["failure"] is None
    studio.call("POST", "save", {})
    assert files(project) == set(names(studio))


def test_masks_that_no_spec_names_go(make_studio: Callable[..., Any], tmp_path: Path) -> None:
    studio = make_studio()
    studio.make_edit()
    studio.call("POST", "save", {})
    (first,) = files(tmp_path)
    kept = tmp_path / "masks" / "mine.png"
    kept.write_bytes((tmp_path / first).read_bytes())
    studio.call("PUT", "edits/0/places/source", {"latent": 1, "mask": BOX})
    studio.call("PUT", "edits/0/places/target", {"latent": 2, "mask": BOX})
    assert files(tmp_path) == {first, "masks/mine.png"}
    studio.call("POST", "save", {})
    assert files(tmp_path) == {"masks/mine.png"}
    # Undo finds its mask, and so does the next save.
    studio.call("POST", "undo", {})
    studio.call("POST", "undo", {})
    assert studio.call("GET", "spec")["problems"] == []
    studio.call("GET", "edits/0/masks/source")
    studio.call("POST", "save", {})
    assert files(tmp_path) == {first, "masks/mine.png"}


def test_a_mask_that_another_spec_names_stays(
    make_studio: Callable[..., Any], tmp_path: Path
) -> None:
    studio = make_studio()
    studio.make_edit()
    studio.call("POST", "save", {})
    (name,) = files(tmp_path)
    (tmp_path / "other.yaml").write_text(studio.draft.text)
    studio.call("DELETE", "edits/0", None, revision=studio.draft.revision)
    studio.call("POST", "save", {})
    assert files(tmp_path) == {name}


def test_a_spec_of_another_machine_is_cleaned_up_too(
    make_studio: Callable[..., Any], tmp_path: Path
) -> None:
    studio = make_studio()
    studio.make_edit()
    studio.call("POST", "save", {})
    (name,) = files(tmp_path)
    for path in (tmp_path / ".edits.yaml.studio").rglob("*"):
        if path.is_file():
            path.unlink()
    again = make_studio()
    again.call("PUT", "edits/0/places/source", {"latent": 1, "mask": BOX})
    again.call("PUT", "edits/0/places/target", {"latent": 2, "mask": towers()})
    again.call("POST", "save", {})
    assert files(tmp_path) == {name}
    again.call("PUT", "edits/0/places/target", {"latent": 2, "mask": BOX})
    again.call("POST", "save", {})
    assert files(tmp_path) == set()


def test_no_mask_is_written_through_a_link(make_studio: Callable[..., Any], tmp_path: Path) -> None:
    project, outside = tmp_path / "project", tmp_path / "outside"
    project.mkdir()
    outside.mkdir()
    studio = make_studio(name="project/edits.yaml")
    studio.make_edit()
    (project / "masks").symlink_to(outside)
    answer = studio.call("POST", "save", {}, 422)
    assert "leads out" in answer["message"] or answer["problems"]
    assert list(outside.iterdir()) == []
    assert not studio.path.exists()


def test_what_is_exported_is_ignored_by_git(studio: Any) -> None:
    studio.make_edit()
    assert studio.run("export")["failure"] is None
    build = studio.path.parent / "build"
    assert (build / ".gitignore").read_text() == "*\n"
    assert (build / "edits" / "manifest.json").is_file()
    # One of the user's own stays.
    (build / ".gitignore").write_text("patches\n")
    studio.run("export")
    assert (build / ".gitignore").read_text() == "patches\n"
