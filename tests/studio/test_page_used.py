"""An edit of another spec in the studio's page: it is looked at, and cannot be changed there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.studio.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

Serve = Callable[[str, str], Served]

BOX = "{box: [8, 8, 20, 24]}"

OF_IMAGES = f"""\
version: 1
model: {{family: stylegan2, weights: "builtin:skyline"}}
edits:
  - name: paste
    layer: layer7
    source: {{latent: 12, mask: {BOX}}}
    target: {{latent: 3, mask: {BOX}}}
    context: [{{latent: 5, mask: {BOX}}}]
"""

OF_FACTS = """\
version: 1
model: {family: transformer, weights: "builtin:atlas"}
statistics: {tokens: 4096}
edits:
  - name: paste
    layer: layer1
    target: {prompt: "{} lives in", subject: Dana Hazel Ashdown}
    source: {text: Lumen, was: Belmar}
"""

OWN = "  - {use: 'library.yaml#paste', name: theirs}\n"


@pytest.fixture
def serve(
    program: Path, tmp_path: Path, shots: Path | None, browser: Browser, shared_cache: Path
) -> Iterator[Serve]:
    """Serve a spec of a used edit and one that stands in the spec itself."""
    made: list[Served] = []

    def make(library: str, ready: str) -> Served:
        head, edits = library.split("edits:\n")
        (tmp_path / "library.yaml").write_text(library)
        (tmp_path / "edits.yaml").write_text(f"{head}edits:\n{OWN}{edits}")
        env = os.environ | {"EDITSPEC_CACHE": str(shared_cache)}
        place = (program, tmp_path, shots, browser)
        made.append(Served(*place, "edits.yaml", env=env, ready=ready))
        return made[0]

    yield make
    made[0].page.close()
    made[0].stop()
    assert made[0].errors == []


def choose(studio: Served, name: str) -> None:
    """Choose an edit by its name."""
    studio.page.get_by_role("button", name=re.compile(f"^{name}")).click()


def test_the_places_of_an_edit_of_another_spec_are_looked_at(serve: Serve) -> None:
    studio = serve(OF_IMAGES, ".tile img")
    text = studio.text()
    choose(studio, "theirs")
    note = studio.page.get_by_role("note")
    assert "the edit of library.yaml#paste" in note.inner_text()
    solver = studio.page.locator(".rule select")
    assert solver.is_disabled()
    assert studio.button("Brush (B)").is_disabled()
    assert studio.button("Clear the mask").is_disabled()
    assert studio.canvas.get_attribute("data-tool") == "hand"
    # The hand moves what is in sight, and the keys of tools take none.
    studio.drag((30, 30), (40, 40))
    studio.page.keyboard.press("b")
    studio.drag((30, 30), (40, 40))
    studio.step("Context")
    assert studio.button("Remove context 5").is_disabled()
    # Whether and where it stands is a matter of this spec.
    assert studio.button("Move theirs down").is_enabled()
    assert studio.api("GET", "spec")["revision"] == 0
    assert studio.text() == text

    choose(studio, "paste")
    assert note.count() == 0
    assert solver.is_enabled()
    studio.step("Copy")
    assert studio.button("Brush (B)").is_enabled()


def test_the_facts_of_an_edit_of_another_spec_are_looked_at(serve: Serve) -> None:
    studio = serve(OF_FACTS, ".card")
    field = studio.page.get_by_label("Subject", exact=True)
    choose(studio, "theirs")
    assert field.input_value() == "Dana Hazel Ashdown"
    assert field.is_disabled()
    assert studio.button("Add a fact").is_disabled()
    assert studio.page.locator(".form [role=note]").count() == 1
    choose(studio, "paste")
    assert field.is_enabled()
    assert studio.page.get_by_role("note").count() == 0
