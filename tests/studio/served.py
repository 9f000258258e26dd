"""A studio that is served, and the page that shows it in a browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from editspec_runtime.io.digests import digest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

SIZE = 64

PATIENCE = 300
"""Seconds to wait for something that has to happen."""


class Served:
    """A studio that is served, and the page that shows it."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        shots: Path | None,
        browser: Browser,
        *arguments: str,
        env: dict[str, str] | None = None,
        ready: str = ".tile img",
    ) -> None:
        self.program, self.folder, self.shots, self.browser = program, folder, shots, browser
        self.ready = ready
        options = ["--port", "0", "--threads", "1", *arguments]
        self.process = subprocess.Popen(
            [program, "studio", *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
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
        page.locator(self.ready).first.wait_for()
        return page

    def stop(self) -> None:
        """End the server as Ctrl+C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def begin(self, text: str) -> None:
        """Make a text the spec, on a page that was just opened."""
        page = self.page
        page.evaluate("() => sessionStorage.clear()")
        page.set_viewport_size({"width": 1280, "height": 720})
        page.emulate_media(color_scheme="light")
        # Without edits in between: an edit that is alike would have the results of the test before.
        for each in (f"{text.partition('edits:')[0]}edits: []\n", text):
            revision = self.api("GET", "spec")["revision"]
            self.api("PUT", "spec", {"revision": revision, "text": each})
        page.goto(self.url)
        page.locator(self.ready).first.wait_for()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """What the API answers to the page."""
        token = self.url.partition("token=")[2]
        answer = self.page.request.fetch(
            self.url.partition("?")[0] + f"api/{path}",
            method=method,
            headers={"Authorization": f"Bearer {token}"},
            data=body,
        )
        assert answer.ok, answer.text()
        return answer.json()

    def shot(self, name: str) -> None:
        """Keep a picture of the page, once its images have arrived, where pictures are kept."""
        if self.shots is None:
            return
        self.page.evaluate(
            "() => Promise.all([...document.images].map(image => image.decode().catch(() => 0)))"
        )
        # Transitions are shown at their ends.
        self.page.screenshot(path=self.shots / f"{name}.png", animations="disabled")

    def look(self, name: str) -> None:
        """Keep a picture of the page on two screens, and look for what is in the way.

        The page has run the script of axe.
        """
        page = self.page
        for width, height in ((1600, 900), (1280, 720)):
            page.set_viewport_size({"width": width, "height": height})
            self.shot(f"{name}-{width}")
            sizes = page.evaluate(
                "() => { const page = document.documentElement;"
                " return [page.scrollWidth, page.scrollHeight]; }"
            )
            assert sizes == [width, height]
        self.check_access()

    def check_access(self) -> None:
        """axe, whose script the page has run, finds nothing serious."""
        found = self.page.evaluate("() => axe.run()")
        serious = [
            each for each in found["violations"] if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], json.dumps(
            [(each["id"], [n["html"] for n in each["nodes"]]) for each in serious], indent=1
        )
        assert len(found["passes"]) > 10

    def button(self, name: str) -> Locator:
        """A button by its label."""
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def canvas(self) -> Locator:
        """The canvas of images."""
        return self.page.locator(".canvas")

    def step(self, name: str) -> None:
        """Choose Copy, Paste or Context."""
        self.page.get_by_role("tab", name=re.compile(name)).click()

    def image(self, latent: int) -> None:
        """Choose an image of the gallery."""
        self.page.locator(f"[data-latent='{latent}'] img.before").click()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is on the page, which shows the whole image."""
        box = self.canvas.bounding_box()
        assert box is not None
        inner = box["width"] - 2, box["height"] - 2
        scale = min(inner) // SIZE
        left, top = (
            box["x"] + 1 + (inner[0] - SIZE * scale) // 2,
            box["y"] + 1 + (inner[1] - SIZE * scale) // 2,
        )
        return left + x * scale, top + y * scale

    def click(self, *points: tuple[float, float]) -> None:
        """Click on pixels of the image."""
        for point in points:
            self.page.mouse.click(*self.at(*point))

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
        self.wait(lambda: bool(re.search(pattern, self.text())), pattern)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds, for as long as a slow machine may need."""
        wait_until(self.page, condition, what)

    def mask_name(self, role: str = "source: ") -> str:
        """Read the name of the mask behind some words of the spec."""
        found = re.search(rf"{role}.*mask: (masks/\S+\.png)", self.text())
        return found[1] if found else ""

    def mask(self, before: str = "", role: str = "source: ") -> set[tuple[int, int]]:
        """Read the pixels of a mask, by default the source's, once it is another one than `before`.

        The page has it by then, too, and the next stroke is painted on it.
        """
        self.wait(
            lambda: self.mask_name(role) not in ("", before), f"a mask after {before or 'none'}"
        )
        name = self.mask_name(role)
        shown = digest(name)[:16]
        self.page.locator(f".canvas[data-mask='{shown}']").wait_for()
        drafts = next(self.folder.glob(".*.studio"))
        image = np.asarray(Image.open(drafts / name))
        return {(int(x), int(y)) for y, x in np.argwhere(image > 127)}

    def zoom_in(self) -> None:
        """Turn the wheel one step towards the pixel under the mouse, which stays where it is."""
        before = self.canvas.get_attribute("data-scale")
        self.page.mouse.wheel(0, -120)
        self.wait(lambda: self.canvas.get_attribute("data-scale") != before, "a zoom")

    def execute(self) -> str:
        """Execute, and the start of the digest of the last patch."""
        self.page.get_by_role("button", name=re.compile("^Execute")).click()
        done = self.page.locator(".figures:not(.stale)")
        done.wait_for()
        return done.locator("dt:has-text('Patch') + dd").inner_text()

    def build(self) -> list[str]:
        """The digests of the patches that the command line makes of the saved spec."""
        options = ["edits.yaml", "-o", "out", "--json", "--threads", "1"]
        command = [self.program, "build", *options]
        made = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return [edit["digest"] for edit in json.loads(made.stdout)["edits"]]


def wait_until(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds, for as long as a slow machine may need."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        page.wait_for_timeout(50)
