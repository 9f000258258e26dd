"""Concepts in the studio's page, with mouse and keyboard, on one server: Skyline by prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.studio.served import Served
from tests.studio.test_page_texts import choose, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

FEW_STEPS = 'weights: "builtin:skyline-captions"}\npictures: {steps: 1, guidance: 1}\n'


@pytest.fixture
def studio(
    program: Path, tmp_path: Path, shots: Path | None, browser: Browser, shared_cache: Path
) -> Iterator[Served]:
    env = os.environ | {"EDITSPEC_CACHE": str(shared_cache)}
    options = ("--model", "builtin:skyline-captions")
    served = Served(program, tmp_path, shots, browser, *options, env=env, ready=".card")
    yield served
    served.page.close()
    served.stop()
    assert served.errors == []


def test_a_concept_is_replaced_and_drawn(studio: Served, page_sources: Path) -> None:
    page = studio.page
    axe = (page_sources / "node_modules" / "axe-core" / "axe.min.js").read_text()
    page.evaluate(f"{axe}; 0")
    assert page.locator(".count").inner_text() == "2 steps left"
    studio.look("prompts-empty")
    page.get_by_label("Text of the spec").fill(
        studio.text().replace('weights: "builtin:skyline-captions"}\n', FEW_STEPS)
    )
    studio.expect("guidance")

    write(studio, "Concept that is edited", "two domes")
    studio.expect("target: {prompt: two domes}")
    page.locator(".token.is-marked").wait_for()
    assert page.locator(".token.is-marked").all_text_contents() == ["marked: domes"]
    choose(studio, "Content")
    studio.expect("tokens: content")
    studio.wait(lambda: page.locator(".token.is-marked").count() == 2, "two edited tokens")
    write(studio, "Is answered like", "two spires")
    studio.expect("source: {prompt: two spires}")
    studio.button("Add phrasing").click()
    page.keyboard.type("a pair of domes")
    page.keyboard.press("Enter")
    studio.expect(r"(?s)context:\s+- \{prompt: a pair of domes\}")
    studio.button("Add preserved prompt").click()
    page.keyboard.type("a red sky")
    page.keyboard.press("Enter")
    studio.expect(r"(?s)preserve:\s+- \{prompt: a red sky\}")

    assert studio.text().count("a red sky") == studio.text().count("a pair of domes") == 1

    # Before there is an edit, and then on both sides of it.
    studio.button("Draw").click()
    studio.wait(lambda: page.locator(".drawn-row.before img").count() == 9, "pictures before")
    first = studio.execute()
    studio.wait(lambda: page.locator(".drawn-row.after img").count() == 9, "pictures after")
    shown = page.locator(".drawn-row img").evaluate_all("all => all.map(each => each.src)")
    assert len(set(shown)) == 18
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        studio.look(f"prompts-executed-{scheme}")

    choose(studio, "Erase")
    studio.expect("source: {prompt: ''}|source: {prompt: \"\"}")
    page.get_by_text("after is as it was then").wait_for()
    studio.button("Undo (Ctrl+Z)").click()
    page.get_by_text("This is what was executed.").wait_for()
    studio.button("Save").click()
    page.locator(".is-saved").wait_for()
    assert [digest[:12] for digest in studio.build()] == [first]

    choose(studio, "Move")
    write(studio, "Added prompt 1", "lit windows")
    write(studio, "Factor 1", "-0.5")
    studio.expect(r"add:\s*\[?-?\s*\{prompt: lit windows, by: -0.5\}")
    page.get_by_label("Layers").select_option("to_v")
    studio.expect("layers: to_v")

    # Drawing is long work: it is cancelled at the next step, and not begun again by itself.
    page.get_by_label("Text of the spec").fill(studio.text().replace("steps: 1", "steps: 8"))
    studio.button("Draw").click()
    page.locator(".asking").get_by_role("button", name="Cancel").click()
    page.locator(".asking").wait_for(state="detached")
    page.wait_for_timeout(1000)
    assert page.locator(".asking").count() == 0
    assert studio.api("GET", "spec")["failure"] is None
