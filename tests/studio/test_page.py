"""The page of the studio in a browser: from an empty folder to an edit that the command line builds
to the same patch.

Pictures of the page are kept in the folder that EDITSPEC_SCREENSHOTS names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.studio.served import Served, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = pytest.mark.slow


@pytest.fixture
def serve(
    program: Path, tmp_path: Path, shots: Path | None, browser: Browser, shared_cache: Path
) -> Iterator[Callable[..., Served]]:
    """Serves a studio in a folder of its own; again in the same, as after a restart."""
    env = os.environ | {"EDITSPEC_CACHE": str(shared_cache)}
    served: list[Served] = []
    folder = tmp_path / "project"
    folder.mkdir()

    def start(*arguments: str) -> Served:
        served.append(Served(program, folder, shots, browser, *arguments, env=env))
        return served[-1]

    yield start
    for each in served:
        each.page.close()
        each.stop()
        assert each.errors == []


EMPTY = """\
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
statistics: {samples: 64}
edits:
  - name: edit-1
    layer: layer6
    rank: 4
    solver: least-squares
"""


@pytest.fixture
def studio(server: Served) -> Iterator[Served]:
    """A studio on an edit without places, and that no test left an error on the page."""
    server.begin(EMPTY)
    server.step("Copy")
    yield server
    errors, server.errors = server.errors, []
    assert errors == []


def copy_and_paste(studio: Served) -> None:
    """The spire of image 1 onto the dome of image 0, with the mouse alone."""
    studio.image(1)
    studio.button("Polygon (P)").click()
    for corner in ((15, 5), (23, 26), (7, 26)):
        studio.page.mouse.click(*studio.at(*corner))
    studio.page.mouse.dblclick(*studio.at(7, 26))
    studio.expect("source: {latent: 1, mask: masks/")
    studio.step("Paste")
    studio.image(0)
    studio.expect("target: {latent: 0")
    studio.page.locator(".canvas.floating").wait_for()
    before = studio.text()
    studio.drag((15, 18), (19, 22), (15, 17))
    head = "target: {latent: 0, mask: "
    mask = before.split(head)[1][:20]
    studio.expect(f"{head}(?!{re.escape(mask)})")


def test_from_an_empty_start_to_an_edit_that_the_command_line_builds(
    serve: Callable[..., Served],
) -> None:
    studio = serve()
    studio.shot("1-empty-start")
    copy_and_paste(studio)
    studio.shot("2-pasted")
    studio.step("Context")
    studio.image(0)
    studio.button("Box (R)").click()
    studio.drag((8, 8), (22, 26))
    studio.expect("context:\n *- {latent: 0")
    studio.page.get_by_text("Search similar places").click()
    # The target stays in the context, and the box was added to it.
    for count in (3, 4, 5):
        studio.page.locator("[data-key^='found-']").first.click()
        studio.expect(rf"(- \{{latent: \d+, mask.*\n.*){{{count}}}")
    with studio.page.expect_response(re.compile("/heat/")):
        studio.button("Heat map of the key").click()
    studio.shot("3-heat-map")
    studio.button("Heat map of the key").click()
    shown = studio.execute()
    studio.shot("4-executed")

    # A reload in the middle: all is still there, what was executed too.
    studio.page.reload()
    studio.page.locator(".figures:not(.stale)").wait_for()
    studio.expect("context:")

    studio.button("Save").click()
    studio.page.locator(".is-saved").wait_for()
    assert (studio.folder / "edits.yaml").read_text() == studio.text()
    built = studio.build()
    assert [digest[:12] for digest in built] == [shown]

    # And after a restart of the server.
    studio.stop()
    assert studio.process.returncode == 130
    again = serve()
    again.page.locator(".figures:not(.stale)").wait_for()
    assert again.page.locator("dt:has-text('Patch') + dd").inner_text() == shown
    again.page.locator(".segment", has_text="Fresh samples").click()
    again.shot("5-fresh-samples")


def test_two_edits_the_first_switched_off(serve: Callable[..., Served]) -> None:
    studio = serve()
    copy_and_paste(studio)
    studio.page.get_by_text("Add", exact=True).click()
    studio.expect("name: edit-2")
    studio.step("Copy")
    studio.image(0)
    studio.button("Ellipse (O)").click()
    studio.drag((40, 30), (52, 44))
    studio.expect("source: {latent: 0")
    studio.step("Paste")
    studio.image(2)
    studio.expect("target: {latent: 2")
    both = studio.execute()
    studio.page.get_by_label("edit-1 is on").click()
    studio.expect("# off:   - name: edit-1")
    alone = studio.execute()
    assert alone != both
    studio.shot("6-first-switched-off")
    studio.button("Save").click()
    studio.page.locator(".is-saved").wait_for()
    assert [digest[:12] for digest in studio.build()] == [alone]
    studio.page.get_by_label("edit-1 is on").click()
    studio.button("Move edit-2 up").click()
    studio.expect("(?s)name: edit-2.*name: edit-1")
    assert studio.execute() == alone  # it comes first now, and again sees the unedited model
    studio.button("Undo (Ctrl+Z)").click()
    studio.expect("(?s)name: edit-1.*name: edit-2")


def test_long_work_is_cancelled(studio: Served) -> None:
    copy_and_paste(studio)
    studio.page.get_by_label("Solver").select_option("projected-gradient")
    studio.page.get_by_label("steps", exact=True).fill("1000000")
    studio.page.get_by_label("steps", exact=True).press("Enter")
    studio.expect("steps: 1000000")
    studio.page.get_by_role("button", name="Execute").click()
    studio.page.locator("progress").wait_for()
    studio.page.get_by_text("solving").wait_for()
    studio.shot("7-under-way")
    studio.button("Cancel").click()
    studio.page.get_by_role("button", name="Execute").wait_for()
    assert studio.page.locator(".figures").count() == 0


def test_a_bad_spec_is_named_at_its_lines(studio: Served) -> None:
    copy_and_paste(studio)
    good = studio.text()
    area = studio.page.get_by_label("Text of the spec")
    area.fill(good.replace("layer: layer6", "layer: laier6"))
    line = 1 + good[: good.index("layer: layer6")].count("\n")
    problem = studio.page.locator(".problem")
    problem.wait_for()
    assert f"line {line}" in problem.inner_text()
    assert "layer6" in problem.inner_text()
    assert studio.page.locator(".editor-numbers .bad").inner_text() == str(line)
    assert studio.page.get_by_role("button", name="Execute").is_disabled()
    studio.shot("8-bad-spec")
    problem.click()
    assert (
        area.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)").strip()
        == "layer: laier6"
    )
    area.fill("edits: [")
    studio.page.locator(".problem").filter(has_text="not YAML").wait_for()
    area.fill(good)
    studio.page.locator(".problem").wait_for(state="hidden")


def test_two_tabs_show_the_same_and_do_not_overwrite_each_other(studio: Served) -> None:
    other = studio.open()
    copy_and_paste(studio)
    area = other.get_by_label("Text of the spec")
    wait_until(other, lambda: area.input_value() == studio.text(), "the same text in both tabs")
    held: list[Route] = []

    def hold_text(route: Route) -> None:
        held.append(route) if route.request.method == "PUT" else route.continue_()

    # While a text that was typed here is on its way, the spec is changed there.
    other.route(re.compile("/api/spec"), hold_text)
    area.evaluate("area => { area.value += '# typed\\n'; area.dispatchEvent(new Event('input')); }")
    wait_until(other, lambda: bool(held), "the text that was typed")
    studio.button("Raise the rank").click()
    studio.expect("rank: 5")
    held[0].continue_()
    other.get_by_text("changed elsewhere").wait_for()
    assert "rank: 5" in studio.text()
    assert "typed" not in studio.text()
    other.close()


def test_every_tool_paints_the_pixels_that_it_covers_at_any_zoom(studio: Served) -> None:
    studio.image(1)
    studio.button("Box (R)").click()
    studio.drag((10, 12), (30, 40))
    studio.expect("source: {latent: 1, mask")
    before, box = studio.mask(), studio.mask_name()
    assert before == {(x, y) for x in range(10, 30) for y in range(12, 40)}
    studio.button("Eraser (E)").click()
    studio.page.mouse.move(*studio.at(20.5, 20.5))
    for _ in range(3):
        studio.zoom_in()
    studio.page.mouse.down()
    studio.page.mouse.up()
    erased = before - studio.mask(box)
    assert (20, 20) in erased
    assert all((x - 20) ** 2 + (y - 20) ** 2 <= 9 for x, y in erased)
    with_a_hole = studio.mask_name()
    studio.button("Undo (Ctrl+Z)").click()
    assert studio.mask(with_a_hole) == before
    studio.button("Show the whole image (0)").click()
    studio.button("Ellipse (O)").click()
    studio.drag((40, 40), (60, 50))
    after = studio.mask(box)
    assert before < after
    ellipse = after - before
    assert ellipse == {
        (x, y)
        for x in range(40, 60)
        for y in range(40, 50)
        if ((x - 49.5) / 10) ** 2 + ((y - 44.5) / 5) ** 2 <= 1
    }


def test_it_is_usable_with_a_keyboard_alone(studio: Served) -> None:
    keyboard = studio.page.keyboard
    studio.page.locator("[data-latent='0']").focus()
    keyboard.press("ArrowRight")
    keyboard.press("Enter")
    studio.page.locator(".canvas").focus()
    keyboard.press("r")
    for _ in range(3):
        keyboard.press("Shift+ArrowLeft")
        keyboard.press("Shift+ArrowUp")
    keyboard.press(" ")
    keyboard.press("Shift+ArrowRight")
    keyboard.press("Shift+ArrowDown")
    keyboard.press(" ")
    studio.expect("source: {latent: 1, mask")
    keyboard.press("2")
    studio.page.locator("[data-latent='1']").focus()
    keyboard.press("ArrowLeft")
    keyboard.press("Enter")
    studio.expect("target: {latent: 0, mask")
    studio.page.locator(".canvas.floating").wait_for()
    first = studio.text()
    studio.page.locator(".canvas").focus()
    keyboard.press("ArrowDown")
    wait_until(studio.page, lambda: studio.text() != first, "what is pasted to move")
    keyboard.press("Control+Enter")
    studio.page.locator(".figures:not(.stale)").wait_for()
    keyboard.press("Control+s")
    studio.page.locator(".is-saved").wait_for()
    assert (studio.folder / "edits.yaml").exists()
    assert studio.page.locator(":focus").count() == 1
