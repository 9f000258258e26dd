"""Single points of the studio's page, with mouse and keyboard, on one server and one page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.studio.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Route

pytestmark = pytest.mark.slow

HEAD = """\
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
statistics: {samples: 64}
"""

EMPTY = f"""{HEAD}edits:
  - name: edit-1
    layer: layer6
    rank: 4
    solver: least-squares
"""

FIRST = """\
  - name: spires
    layer: layer6
    rank: 1
    source: {latent: 1, mask: {box: [8, 4, 23, 27]}}
    target: {latent: 0, mask: {box: [8, 4, 23, 27]}}
    solver: least-squares
"""

SECOND = """\
  - name: trees
    layer: layer8
    rank: 1
    source: {latent: 4, mask: {box: [54, 31, 64, 45]}}
    target: {latent: 2, mask: {box: [44, 7, 54, 21]}}
    solver: least-squares
"""

ONE, TWO = f"{HEAD}edits:\n{FIRST}", f"{HEAD}edits:\n{FIRST}{SECOND}"


@pytest.fixture
def studio(server: Served) -> Iterator[Served]:
    """The studio, and that no test left an error on the page."""
    yield server
    errors, server.errors = server.errors, []
    assert errors == []


def figures(studio: Served) -> Locator:
    """The figures of what was executed."""
    return studio.page.locator(".figures:not(.stale)")


def execute_button(studio: Served) -> Locator:
    """The button that executes, for the first time or again."""
    return studio.page.get_by_role("button", name=re.compile("^Execute"))


def test_an_empty_project_begins_with_three_steps_and_nothing_is_wrong(studio: Served) -> None:
    studio.begin(EMPTY)
    page = studio.page
    page.get_by_role("heading", name="three steps").wait_for()
    assert page.locator(".welcome li").count() == 3
    assert page.locator(".editor .count").inner_text() == "2 steps left"
    assert page.locator(".bad").count() == 0
    assert execute_button(studio).is_disabled()
    for words in ("The first layers say", "How many directions", "Damped least squares"):
        assert page.get_by_text(words).is_visible()
    assert "128 channels" in page.locator(".segment", has_text="6").get_attribute("title")
    # With the keyboard alone to the first step.
    page.locator("[data-latent='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="three steps").wait_for(state="hidden")
    page.locator(".canvas[aria-label='copy, image 1']").wait_for()


def test_before_and_after_are_looked_at_closely(studio: Served) -> None:
    studio.begin(ONE)
    page = studio.page
    studio.execute()
    label = studio.canvas.get_attribute("aria-label")
    text = studio.text()
    page.locator("[data-latent='2'] img.after").dblclick()
    box = page.get_by_role("dialog", name="Image 2")
    box.wait_for()
    # What was copied is as it was.
    assert (studio.canvas.get_attribute("aria-label"), studio.text()) == (label, text)

    slider = box.get_by_label("Where after begins, in percent")
    line = box.locator(".wipe-line")
    picture = box.locator(".wipe").bounding_box()
    assert picture is not None
    middle = picture["y"] + picture["height"] / 2
    page.mouse.move(picture["x"] + 0.5 * picture["width"], middle)
    page.mouse.down()
    page.mouse.move(picture["x"] + 0.25 * picture["width"], middle, steps=4)
    page.mouse.up()
    assert slider.input_value() == "25"
    slider.focus()
    page.keyboard.press("ArrowRight")
    studio.wait(lambda: "26%" in (line.get_attribute("style") or ""), "the line to follow")

    page.keyboard.press("b")
    seen = box.locator("img")
    for words in ("After", "Before"):
        box.locator(f"img[alt='{words}']").wait_for()
    box.get_by_role("button", name="Stop").click()
    shown = seen.get_attribute("alt")
    box.get_by_role("button", name=re.compile("^Show")).click()
    studio.wait(lambda: seen.get_attribute("alt") != shown, "the other picture")

    page.keyboard.press("d")
    box.get_by_text("On average a pixel changes by").wait_for()
    page.keyboard.press("2")
    box.locator("[data-pixels='128']").wait_for()
    page.set_viewport_size({"width": 500, "height": 400})
    page.keyboard.press("8")
    box.locator("[data-pixels='512']").wait_for()
    # A picture that is larger than its frame is moved by the keys; the next image waits.
    frame = box.get_by_role("group", name="Picture")
    frame.focus()
    page.keyboard.press("ArrowRight")
    studio.wait(lambda: frame.evaluate("frame => frame.scrollLeft") > 0, "the picture to move")
    assert box.is_visible()
    page.set_viewport_size({"width": 1600, "height": 900})
    page.keyboard.press("0")
    box.locator("[data-pixels='512']").wait_for(state="hidden")
    page.keyboard.press("ArrowRight")
    page.get_by_role("dialog", name="Image 3").wait_for()
    studio.button("The image before (←)").click()
    box.wait_for()
    studio.shot("lightbox")
    page.keyboard.press("Escape")
    box.wait_for(state="hidden")

    # By the keyboard, and for samples that nobody can choose.
    page.locator("[data-latent='2']").focus()
    page.keyboard.press("v")
    box.wait_for()
    page.keyboard.press("Escape")
    page.locator(".segment", has_text="Fresh samples").click()
    page.locator("[data-latent='1'] img.before").dblclick()
    page.get_by_role("dialog", name="Image 1").wait_for()
    page.keyboard.press("Escape")


def test_wide_screens_show_two_columns_more(studio: Served) -> None:
    studio.begin(ONE)
    studio.execute()

    def columns() -> int:
        return studio.page.locator(".gallery-row").first.locator(".tile").count()

    studio.wait(lambda: columns() == 2, "pairs")
    studio.page.set_viewport_size({"width": 1600, "height": 900})
    studio.wait(lambda: columns() >= 4, "two columns more")


def test_results_belong_to_an_edit_and_come_back_with_it(studio: Served) -> None:
    studio.begin(ONE)
    page = studio.page
    patch = studio.execute()
    studio.button("Remove spires").click()
    page.get_by_text("No edits yet").wait_for()
    assert execute_button(studio).is_disabled()
    studio.button("Add").click()
    page.get_by_role("button", name="edit-1", exact=True).dblclick()
    name = page.get_by_label("New name of edit-1")
    name.fill("spires")
    name.press("Enter")
    studio.expect("name: spires")
    # It has the name, and nothing else of the one before.
    assert page.locator(".figures").count() == 0
    for _ in range(3):
        page.locator("body").press("Control+z")
    figures(studio).wait_for()
    assert figures(studio).locator("dt:has-text('Patch') + dd").inner_text() == patch
    page.get_by_text("This is what was executed.").wait_for()

    # A change, another execute, and back: what was executed before is known again.
    studio.button("Raise the rank").click()
    page.get_by_text("The spec has changed since it was executed.").wait_for()
    other = studio.execute()
    assert other != patch
    studio.button("Undo (Ctrl+Z)").click()
    page.locator(f"dd:text-is('{patch}')").wait_for()
    figures(studio).wait_for()
    studio.button("Redo (Ctrl+Shift+Z)").click()
    page.locator(f"dd:text-is('{other}')").wait_for()


def test_errors_go_with_their_cause(studio: Served) -> None:
    # Only when it is executed it is known how many keys the context has.
    studio.begin(ONE.replace("rank: 1", "rank: 100"))
    page = studio.page
    news = page.locator(".news strong")
    execute_button(studio).click()
    news.wait_for()
    page.reload()
    news.wait_for()
    page.get_by_label("Text of the spec").fill(ONE)
    news.wait_for(state="hidden")
    page.locator(".problem").wait_for(state="hidden")
    page.reload()
    page.locator(".tile img").first.wait_for()
    assert news.count() == 0


def test_a_text_that_cannot_be_read_shows_what_it_held(studio: Served) -> None:
    studio.begin(TWO)
    page = studio.page
    page.get_by_role("button", name="trees", exact=True).click()
    page.get_by_label("Text of the spec").fill(f"{TWO}  - [")
    page.get_by_text("This is what it held before.").wait_for()
    assert page.locator(".edit").count() == 2
    assert page.get_by_text("No edits yet").count() == 0
    assert page.locator(".edit.selected").inner_text().strip() == "trees"
    assert studio.canvas.get_attribute("aria-label") == "copy, image 4"
    assert execute_button(studio).is_disabled()
    assert page.get_by_label("Rank", exact=True).is_disabled()
    studio.drag((10, 10), (20, 20))
    page.get_by_label("Text of the spec").fill(TWO)
    page.get_by_text("This is what it held before.").wait_for(state="hidden")
    assert studio.text() == TWO
    # No edit that is on is nothing to execute, either.
    for name in ("spires", "trees"):
        page.get_by_label(f"{name} is on").click()
        studio.expect(f"# off: .*name: {name}")
    assert execute_button(studio).is_disabled()


def corners(studio: Served) -> int:
    """The corners of the polygon that is begun."""
    return int(studio.canvas.get_attribute("data-corners") or 0)


TRIANGLE = ((12, 6), (40, 6), (12, 40))


def test_polygons_close_in_three_ways_and_die_with_what_they_were_begun_on(
    studio: Served,
) -> None:
    studio.begin(
        EMPTY.replace(
            "\n    solver", "\n    source: {latent: 1, mask: {box: [1, 1, 3, 3]}}\n    solver"
        )
    )
    page = studio.page
    studio.canvas.wait_for()
    page.locator(".canvas[data-mask]").wait_for()
    page.keyboard.press("p")
    for close in ("double click", "Enter", "first corner"):
        studio.click(*TRIANGLE)
        studio.wait(lambda: corners(studio) == 3, "three corners")
        if close == "double click":
            page.mouse.dblclick(*studio.at(12, 40))
        elif close == "Enter":
            studio.canvas.focus()
            page.keyboard.press("Enter")
        else:
            studio.click(TRIANGLE[0])
        pixels = studio.mask()
        inside = {(x, y) for x, y in pixels if x > 3 and y > 3}
        # The pixels whose centres lie inside of the triangle.
        assert inside == {
            (x, y)
            for x in range(12, 40)
            for y in range(6, 40)
            if (x + 0.5 - 12) / 28 + (y + 0.5 - 6) / 34 < 1
        }
        assert corners(studio) == 0
        studio.button("Undo (Ctrl+Z)").click()
        studio.expect(r"box: \[1, 1, 3, 3\]")
        page.locator(".canvas[data-mask]").wait_for()

    def begin_polygon() -> None:
        studio.click(*TRIANGLE[:2])
        studio.wait(lambda: corners(studio) == 2, "two corners")

    def is_gone(why: str) -> None:
        studio.wait(lambda: corners(studio) == 0, f"no corners after {why}")

    before = studio.text()
    begin_polygon()
    studio.canvas.focus()
    page.keyboard.press("Escape")
    is_gone("Escape")
    for key in ("b", "2"):
        page.keyboard.press("1")
        page.keyboard.press("p")
        begin_polygon()
        page.keyboard.press(key)
        is_gone(key)
    page.keyboard.press("1")
    page.keyboard.press("p")
    begin_polygon()
    studio.image(3)
    is_gone("another image")
    # The corners on that image are of a polygon of its own, and of no other mask.
    studio.click(TRIANGLE[0])
    studio.wait(lambda: corners(studio) == 1, "one corner")
    studio.button("Add").click()
    is_gone("another edit")
    assert studio.text().startswith(before.rstrip("\n"))


def test_masks_are_erased_inverted_and_copied_to_another_image(studio: Served) -> None:
    studio.begin(EMPTY)
    page = studio.page
    studio.image(1)
    page.keyboard.press("r")
    studio.drag((10, 10), (30, 30))
    whole = studio.mask()
    box = studio.mask_name()
    assert whole == {(x, y) for x in range(10, 30) for y in range(10, 30)}
    page.keyboard.down("Alt")
    studio.drag((15, 15), (20, 20))
    page.keyboard.up("Alt")
    with_a_hole = studio.mask(box)
    hole = {(x, y) for x in range(15, 20) for y in range(15, 20)}
    assert with_a_hole == whole - hole
    first = studio.mask_name()
    page.keyboard.press("i")
    every = {(x, y) for x in range(64) for y in range(64)}
    assert studio.mask(first) == every - with_a_hole
    inverted = studio.mask_name()
    studio.button("Invert the mask (I)").click()
    studio.mask(inverted)
    assert studio.mask_name() == first

    studio.canvas.focus()
    page.keyboard.press("Control+c")
    studio.image(3)
    page.locator(".canvas[aria-label='copy, image 3']").wait_for()
    studio.canvas.focus()
    page.keyboard.press("Control+v")
    # Equal masks are one file.
    studio.expect(f"source: {{latent: 3, mask: {first}")
    studio.button("Copy the mask (Ctrl+C)").click()
    studio.image(4)
    page.locator(".canvas[aria-label='copy, image 4']").wait_for()
    studio.button("Put the copied mask here (Ctrl+V)").click()
    studio.expect(f"source: {{latent: 4, mask: {first}")


def test_the_context_keeps_the_target_and_has_several_regions_of_an_image(studio: Served) -> None:
    studio.begin(ONE)
    page = studio.page
    page.keyboard.press("3")
    page.get_by_text("That place stays when others are added").wait_for()
    page.locator(".implied").wait_for()
    page.get_by_text("Search similar places").click()
    found = page.locator("[data-key^='found-']")
    found.first.wait_for()
    latents = [each.get_attribute("data-key") for each in found.all()]
    assert not {"found-0", "found-1"} & set(latents)
    found.first.click()
    studio.expect(r"context:\n *- \{latent: 0, mask: \{box: \[8, 4, 23, 27\]\}\}\n *- \{latent: ")
    page.get_by_role("button", name="Context 0", exact=True).click()
    page.get_by_text("Another region").click()
    page.keyboard.press("o")
    studio.drag((40, 8), (56, 26))
    studio.expect(r"(?s)context:.*latent: 0, mask: \{box.*latent: 0, mask: masks/")
    assert page.get_by_role("button", name="Context 0", exact=True).count() == 2

    with page.expect_response(re.compile("/heat/")):
        page.get_by_text("Heat map of the key").click()
    page.get_by_text("as in the context").wait_for()
    page.get_by_text("Heat map of the key").click()
    # Of another edit, nothing of this is shown.
    studio.button("Add").click()
    studio.expect("name: edit-1")
    page.get_by_role("tab", name=re.compile("Context")).click()
    assert found.count() == 0


def test_the_text_follows_the_edit_that_is_chosen(studio: Served) -> None:
    long = "".join(FIRST.replace("spires", f"edit-{number}") for number in range(12))
    studio.begin(f"{HEAD}edits:\n{long}")
    page = studio.page
    area = page.get_by_label("Text of the spec")
    marked = page.locator(".editor-colours .of-edit")
    for name in ("edit-11", "edit-0"):
        page.get_by_role("button", name=name, exact=True).click()
        marked.filter(has_text=name).wait_for()
        assert marked.count() == len(FIRST.splitlines())
        top, bottom = area.evaluate("area => [area.scrollTop, area.scrollTop + area.clientHeight]")
        line = studio.text().split("\n").index(f"  - name: {name}")
        assert top <= 18 * line < bottom


def test_answers_that_are_late_undo_nothing(studio: Served) -> None:
    studio.begin(ONE)
    page = studio.page
    area, rank = page.get_by_label("Text of the spec"), page.get_by_label("Rank", exact=True)
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method in ("PUT", "PATCH") and len(held) < 2:
            held.append(route)
        else:
            route.continue_()

    page.route(re.compile("/api/(spec|edits/0)$"), hold)
    rank.fill("2")
    rank.press("Enter")
    studio.wait(lambda: len(held) == 1, "the rank on its way")
    assert rank.input_value() == "2"
    held[0].continue_()
    studio.expect("rank: 2")

    # A text while the one before is on its way, and Save before any pause.
    area.press("Control+End")
    page.keyboard.type("# one")
    rank.focus()
    studio.wait(lambda: len(held) == 2, "the text on its way")
    area.focus()
    page.keyboard.type(" and two")
    page.keyboard.press("Control+s")
    held[1].continue_()
    page.locator(".is-saved").wait_for()
    assert studio.text().endswith("# one and two")
    assert (studio.folder / "edits.yaml").read_text() == studio.text()
    assert page.locator(".news strong").count() == 0
    page.unroute_all()


def test_traces_are_told_with_what_helps(studio: Served) -> None:
    studio.begin(ONE.replace("rank: 1", "rank: 4"))
    page = studio.page
    studio.execute()
    for words in ("the distance from what was pasted", "the predicted change everywhere"):
        assert page.get_by_text(words).is_visible()
    page.get_by_text("How much may change elsewhere").wait_for()
    page.get_by_text("unseen images change where they should not").wait_for()
    assert page.locator(".figures .is-bad dt").inner_text() == "Traces"
    advice = page.locator(".advice")
    advice.get_by_text("This edit shows in images that it is not about.").wait_for()
    advice.get_by_role("button", name=re.compile("^sample")).first.click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    advice.get_by_role("button", name="Preserve other images").click()
    studio.expect(r"preserve:\n *- \{latents: \[")
    studio.expect("directions: learned")
    # It is executed, too.
    figures(studio).locator("dd:has-text('rank 16')").wait_for()
    studio.button("Preserve nothing").click()
    studio.wait(lambda: "preserve:" not in studio.text(), "nothing preserved")


def test_nothing_serious_stands_in_the_way_of_anyone(studio: Served, page_sources: Path) -> None:
    """axe finds no serious violation, and nothing is wider or higher than the screen."""

    def look(name: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            studio.look(f"{name}-{scheme}")

    studio.begin(EMPTY)
    page = studio.page
    axe = (page_sources / "node_modules" / "axe-core" / "axe.min.js").read_text()
    page.evaluate(f"{axe}; 0")
    look("empty")
    # Of another rank, nothing is known yet.
    page.get_by_label("Text of the spec").fill(ONE.replace("rank: 1", "rank: 2"))
    page.locator(".welcome").wait_for(state="hidden")
    studio.execute()
    page.get_by_text("unseen images change").wait_for()
    page.get_by_text("Compute the curve").click()
    page.locator(".curve").wait_for()
    page.keyboard.press("Tab")
    page.get_by_role("tab", name=re.compile("Context")).click()
    page.get_by_text("Search similar places").click()
    page.locator("[data-key^='found-']").first.wait_for()
    look("executed")
    page.locator("[data-latent='0'] img.after").dblclick()
    page.get_by_role("dialog").wait_for()
    look("lightbox")
    # Of a picture that is larger than its frame.
    page.set_viewport_size({"width": 500, "height": 400})
    page.keyboard.press("8")
    page.locator("[data-pixels='512']").wait_for()
    studio.check_access()
    page.keyboard.press("Escape")
