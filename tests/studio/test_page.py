"""The page of the studio in a browser: from an empty folder to an edit that the command line builds
to the same patch.

Pictures of the page are kept in the folder that EDITSPEC_SCREENSHOTS names, else among pytest's
temporary files.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from editspec_runtime.io.digests import digest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

SIZE = 64

PATIENCE = 300
"""Seconds to wait for something that has to happen."""

pytestmark = pytest.mark.slow


class Served:
    """A studio that is served, and the page that shows it."""

    def __init__(self, folder: Path, shots: Path, browser: Browser, *arguments: str) -> None:
        self.folder, self.shots, self.browser = folder, shots, browser
        command = [
            sys.executable,
            "-m",
            "editspec",
            "studio",
            "--port",
            "0",
            "--threads",
            "1",
            *arguments,
        ]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.errors: list[str] = []
        self.page = self.open()

    def open(self) -> Page:
        """One more tab."""
        page = self.browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.url)
        page.locator(".tile img").first.wait_for()
        return page

    def stop(self) -> None:
        """End the server as Ctrl+C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def shot(self, name: str) -> None:
        """Keep a picture of the page, once its images have arrived."""
        self.page.evaluate(
            "() => Promise.all([...document.images].map(image => image.decode().catch(() => 0)))"
        )
        # Transitions are shown at their ends.
        self.page.screenshot(path=self.shots / f"{name}.png", animations="disabled")

    def button(self, name: str) -> Locator:
        """A button by its label."""
        return self.page.get_by_role("button", name=name, exact=True)

    def step(self, name: str) -> None:
        """Choose Copy, Paste or Context."""
        self.page.get_by_role("tab", name=re.compile(name)).click()

    def image(self, latent: int) -> None:
        """Choose an image of the gallery."""
        self.page.locator(f"[data-latent='{latent}']").click()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is on the page, which shows the whole image."""
        box = self.page.locator(".canvas").bounding_box()
        assert box is not None
        inner = box["width"] - 2, box["height"] - 2
        scale = min(inner) // SIZE
        left, top = (
            box["x"] + 1 + (inner[0] - SIZE * scale) // 2,
            box["y"] + 1 + (inner[1] - SIZE * scale) // 2,
        )
        return left + x * scale, top + y * scale

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the button of the mouse, go from point to point, and let go."""
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.at(*point), steps=6)
        mouse.up()

    def text(self) -> str:
        """The spec as the page shows it."""
        return self.page.get_by_label("Text of the spec").input_value()

    def expect(self, pattern: str) -> None:
        """Wait until the spec on the page holds a pattern."""
        wait_until(self.page, lambda: bool(re.search(pattern, self.text())), pattern)

    def mask_name(self) -> str:
        """Read the name of the source's mask in the spec."""
        found = re.search(r"source: .*mask: (masks/\S+\.png)", self.text())
        assert found, self.text()
        return found[1]

    def mask(self, before: str = "") -> set[tuple[int, int]]:
        """Read the pixels of the source's mask, once it is another one than `before`.

        The page has it by then, too, and the next stroke is painted on it.
        """
        wait_until(self.page, lambda: self.mask_name() != before, f"a mask after {before}")
        name = self.mask_name()
        shown = digest(name)[:16]
        self.page.locator(f".canvas[data-mask='{shown}']").wait_for()
        image = np.asarray(Image.open(self.folder / name))
        return {(int(x), int(y)) for y, x in np.argwhere(image > 127)}

    def zoom_in(self) -> None:
        """Turn the wheel one step towards the pixel under the mouse, which stays where it is."""
        canvas = self.page.locator(".canvas")
        before = canvas.get_attribute("data-scale")
        self.page.mouse.wheel(0, -120)
        wait_until(self.page, lambda: canvas.get_attribute("data-scale") != before, "a zoom")

    def execute(self) -> str:
        """Execute, and the start of the digest of the last patch."""
        self.page.get_by_role("button", name=re.compile("^Execute")).click()
        done = self.page.locator(".figures:not(.stale)")
        done.wait_for()
        return done.locator("dt:has-text('Patch') + dd").inner_text()

    def build(self) -> list[str]:
        """The digests of the patches that the command line makes of the saved spec."""
        command = [
            sys.executable,
            "-m",
            "editspec",
            "build",
            "edits.yaml",
            "-o",
            "out",
            "--json",
            "--threads",
            "1",
        ]
        made = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return [edit["digest"] for edit in json.loads(made.stdout)["edits"]]


def wait_until(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds, for as long as a slow machine may need."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        page.wait_for_timeout(50)


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("EDITSPEC_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def serve(tmp_path: Path, shots: Path, browser: Browser) -> Iterator[Callable[..., Served]]:
    """Serves a studio in a folder of its own; again in the same, as after a restart."""
    served: list[Served] = []
    folder = tmp_path / "project"
    folder.mkdir()

    def start(*arguments: str) -> Served:
        served.append(Served(folder, shots, browser, *arguments))
        return served[-1]

    yield start
    for each in served:
        each.page.close()
        each.stop()
        assert each.errors == []


def copy_and_paste(studio: Served) -> None:
    """The spire of image 1 onto the dome of image 0, with the mouse alone."""
    studio.image(1)
    studio.button("Polygon (P)").click()
    for corner in ((15, 5), (23, 26), (7, 26)):
        studio.page.mouse.click(*studio.at(*corner))
    studio.page.mouse.dblclick(*studio.at(7, 26))
    studio.expect("source: {latent: 1, mask: masks/latent-1-")
    studio.step("Paste")
    studio.image(0)
    studio.expect("target: {latent: 0")
    studio.page.locator(".canvas.floating").wait_for()
    before = studio.text()
    studio.drag((15, 18), (19, 22), (15, 17))
    head = "target: {latent: 0, mask: "
    mask = before.split(head)[1][:24]
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
    for count in (2, 3, 4):
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


def test_long_work_is_cancelled(serve: Callable[..., Served]) -> None:
    studio = serve()
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


def test_a_bad_spec_is_named_at_its_lines(serve: Callable[..., Served]) -> None:
    studio = serve()
    copy_and_paste(studio)
    good = studio.text()
    area = studio.page.get_by_label("Text of the spec")
    area.fill(good.replace("layer: layer7", "layer: laier7"))
    line = 1 + good[: good.index("layer: layer7")].count("\n")
    problem = studio.page.locator(".problem")
    problem.wait_for()
    assert f"line {line}" in problem.inner_text()
    assert "layer7" in problem.inner_text()
    assert studio.page.locator(".editor-numbers .bad").inner_text() == str(line)
    assert studio.page.get_by_role("button", name="Execute").is_disabled()
    studio.shot("8-bad-spec")
    problem.click()
    assert (
        area.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)").strip()
        == "layer: laier7"
    )
    area.fill("edits: [")
    studio.page.locator(".problem").filter(has_text="not YAML").wait_for()
    area.fill(good)
    studio.page.locator(".problem").wait_for(state="hidden")


def test_two_tabs_show_the_same_and_do_not_overwrite_each_other(
    serve: Callable[..., Served],
) -> None:
    studio = serve()
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


def test_every_tool_paints_the_pixels_that_it_covers_at_any_zoom(
    serve: Callable[..., Served],
) -> None:
    studio = serve()
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


def test_it_is_usable_with_a_keyboard_alone(serve: Callable[..., Served]) -> None:
    studio = serve()
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_anyone(
    serve: Callable[..., Served], scheme: Any, page_sources: Path
) -> None:
    """axe finds no serious violation, and nothing is wider or higher than a small screen."""
    studio = serve()
    studio.page.emulate_media(color_scheme=scheme)
    copy_and_paste(studio)
    studio.step("Context")
    studio.image(0)
    studio.button("Box (R)").click()
    studio.drag((8, 8), (22, 26))
    studio.expect("context:")
    studio.execute()
    studio.page.get_by_text("Measure traces").click()
    studio.page.locator(".figures dt").get_by_text("Traces").wait_for()
    studio.page.get_by_text("Compute the curve").click()
    studio.page.locator(".curve").wait_for()
    studio.page.get_by_label("Strength").press("ArrowLeft")
    studio.expect("solver: {method: least-squares, collateral_weight: ")
    studio.page.locator(".figures:not(.stale)").wait_for()
    studio.shot(f"9-{scheme}")
    sizes = studio.page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    )
    assert sizes == [1280, 720]
    studio.page.evaluate(
        (page_sources / "node_modules" / "axe-core" / "axe.min.js").read_text() + "; 0"
    )
    found = studio.page.evaluate("() => axe.run()")
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps(
        [(each["id"], [n["html"] for n in each["nodes"]]) for each in serious], indent=1
    )
    assert len(found["passes"]) > 10
