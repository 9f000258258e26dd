"""Facts in the studio's page, with mouse and keyboard, on one server and one page: Atlas."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.studio.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

SMALL = 'model: {family: transformer, weights: "builtin:atlas"}\nstatistics: {tokens: 4096}\n'
QUICK = "optimise: {evaluations: 12, clamp: 0.6}"


@pytest.fixture
def studio(
    program: Path, tmp_path: Path, shots: Path | None, browser: Browser, shared_cache: Path
) -> Iterator[Served]:
    env = os.environ | {"EDITSPEC_CACHE": str(shared_cache)}
    options = ("--model", "builtin:atlas")
    served = Served(program, tmp_path, shots, browser, *options, env=env, ready=".card")
    yield served
    served.page.close()
    served.stop()
    assert served.errors == []


def write(studio: Served, label: str, text: str) -> None:
    """Write into a field of the form with the keyboard."""
    field = studio.page.get_by_label(label, exact=True)
    field.click()
    field.press("Control+a")
    studio.page.keyboard.type(text)
    field.press("Enter")


def choose(studio: Served, words: str) -> None:
    """Take one of several choices beside each other."""
    studio.page.locator(".segment", has_text=words).click()


def told(studio: Served, prompt: str) -> list[str]:
    """What the table says beside a prompt."""
    row = studio.page.locator(".completions tr", has=studio.page.get_by_text(prompt, exact=True))
    row.wait_for()
    return row.locator("td").all_inner_texts()


def test_a_fact_is_written_asked_for_and_edited(studio: Served, page_sources: Path) -> None:
    page = studio.page
    axe = (page_sources / "node_modules" / "axe-core" / "axe.min.js").read_text()
    page.evaluate(f"{axe}; 0")
    assert not studio.button("Execute").is_enabled()
    studio.look("texts-empty")

    # An empty project: nothing is wrong, two steps are left.
    assert page.locator(".count").inner_text() == "2 steps left"
    write(studio, "Prompt", "{} lives in")
    studio.expect(r'target: \{prompt: ["\']\{\} lives in["\']\}')
    assert page.locator(".count.bad").count() == 0
    write(studio, "Subject", "Dana Hazel Ashdown")
    studio.expect("subject: Dana Hazel Ashdown")
    page.locator(".token.is-marked").wait_for()
    assert page.locator(".token.is-marked").all_text_contents() == ["marked: ·Ashdown"]
    assert page.locator(".token").count() == 6

    # What the model says now, before there is an edit.
    studio.button("Ask the model").click()
    page.locator(".completions strong").first.wait_for()
    assert told(studio, "Dana Hazel Ashdown lives in")[0].startswith("Belmar")

    write(studio, "Goes on with", "Lumen")
    write(studio, "Instead of", "Belmar")
    studio.expect("source: {text: Lumen, was: Belmar}")
    text = studio.text()
    weights = text.splitlines()[1]
    page.get_by_label("Text of the spec").fill(
        text.replace(f"{weights}\n", SMALL).replace("    layer: ", f"    {QUICK}\n    layer: ")
    )
    studio.expect("evaluations")
    page.get_by_text("How it is judged").click()
    page.get_by_label("The same in other words").fill("The home of {} is in")
    page.get_by_label("Other subjects that must stay").fill("Rosa Nettle Ashdown")
    page.get_by_label("Subject", exact=True).focus()
    studio.expect("neighbours: .Rosa Nettle Ashdown")
    studio.expect(r"(?s)pairs:\s+- \{prompt.*paraphrases")

    first = studio.execute()
    page.locator(".verdict-holds").first.wait_for()
    page.locator(".verdict-kept").wait_for()
    before, after = told(studio, "Dana Hazel Ashdown lives in")
    assert before.startswith("Belmar")
    assert after.startswith("Lumen")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        studio.look(f"texts-executed-{scheme}")

    # Results belong to what was executed: they grow stale, and undo brings them back.
    write(studio, "Goes on with", "Marden")
    page.get_by_text("after is as it was then").wait_for()
    page.locator(".answers.stale .after").first.wait_for()
    studio.button("Undo (Ctrl+Z)").click()
    page.get_by_text("This is what was executed.").wait_for()
    assert told(studio, "Dana Hazel Ashdown lives in")[1].startswith("Lumen")

    # A prompt that has no token for the key says so beside the field; Undo takes it back.
    write(studio, "Prompt", "she lives in")
    page.locator(".trouble").wait_for()
    assert "{}" in page.locator(".trouble").inner_text()
    studio.button("Undo (Ctrl+Z)").click()
    page.locator(".token.is-marked").wait_for()

    # The same bytes as at the command line, and all is there after a reload.
    studio.button("Save").click()
    page.locator(".is-saved").wait_for()
    page.reload()
    page.locator(".verdict-holds").first.wait_for()
    assert (studio.folder / "edits.yaml").read_text() == studio.text()
    assert [digest[:12] for digest in studio.build()] == [first]


def test_lists_layers_and_kinds_are_written_as_a_spec_has_them(studio: Served) -> None:
    page = studio.page
    write(studio, "Prompt", "{} lives in")
    write(studio, "Subject", "Dana Hazel Ashdown")
    choose(studio, "Copy")
    write(studio, "Subject that is copied", "Gala Ivy Jasper")
    studio.expect("source: .*subject: Gala Ivy Jasper")
    page.get_by_title("layer2").click()
    studio.expect(r"layers: \[layer1, layer2\]")
    page.get_by_title("layer1").click()
    studio.expect("layer: layer2")
    assert "layers:" not in studio.text()
    studio.button("Add kept prompt").click()
    page.keyboard.type("{} works as a")
    page.keyboard.press("Enter")
    studio.expect(r"keep:.*\{\} works as a")
    studio.button("Add a fact that is preserved").click()
    page.get_by_label("Preserved subject 1").click()
    page.keyboard.type("Quin Oak Ashdown")
    page.keyboard.press("Enter")
    studio.expect(r"(?s)preserve:\s+- \{prompt: .*subject: Quin Oak Ashdown")
    page.get_by_text("The facts of the edits before, too").click()
    studio.expect("protect: previous")
    choose(studio, "My own")
    studio.expect(r"context: \[.By the way, .\]")
    choose(studio, "By the model")
    studio.button("Remove kept prompt 1").click()
    studio.wait(lambda: not re.search("context|keep", studio.text()), "fields that are gone")
    studio.button("Add a fact").click()
    studio.expect("(?s)pairs:.*Gala Ivy Jasper")
    page.get_by_role("group", name="Fact 2").get_by_label("Subject", exact=True).fill("Ada")
    page.get_by_label("Text of the spec").focus()
    studio.expect("(?s)pairs:.*subject: Ada")
    studio.button("Remove fact 2").click()
    studio.wait(lambda: "subject: Ada}" not in studio.text(), "one fact")
    page.locator(".count", has_text="no problems").wait_for()
