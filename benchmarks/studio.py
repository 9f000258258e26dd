"""Speed of the studio in a browser: ``python benchmarks/studio.py [CHROMIUM]``.

The studio shows Skyline. Prints the time from the opening of the page to its first image, from a
movement of the mouse to the frame that shows the stroke, and from Execute to its result, with the
second moment of the layer in the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "tests" / "recipes" / "dome_to_spire.yaml"
RANKS = (1, 4, 8, 16)
RUNS = 5
"""The runs of Execute that count, by rank."""

STROKES = """() => {
    window.delays = [];
    // The listener of the page asks for a frame first, so its painting is done by then.
    document.querySelector(".canvas").addEventListener("pointermove", event => {
        requestAnimationFrame(() => window.delays.push(performance.now() - event.timeStamp));
    });
}"""

EXECUTE = """() => new Promise(done => {
    const begun = performance.now();
    new MutationObserver((changes, observer) => {
        if (!document.querySelector(".figures:not(.stale)")) return;
        observer.disconnect();
        done(performance.now() - begun);
    }).observe(document.querySelector(".side"), {childList: true, subtree: true, attributes: true});
    document.querySelector("[data-key=execute]").click();
})"""


def main() -> None:
    """Measure all three times, and print them."""
    browser_path = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        text = RECIPE.read_text().replace("../..", str(ROOT))
        solver = re.search(r"    solver: .*\n", text)
        assert solver is not None
        spec = Path(folder, "edits.yaml")
        spec.write_text(text.replace(solver[0], "    solver: least-squares\n"))
        command = [sys.executable, "-m", "editspec", "studio", str(spec), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        try:
            print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {browser.version}")
            seconds_to_image = time_first_image(page, url)
            print(f"first image: {seconds_to_image:.2f} s after the page was opened")
            delays = time_strokes(page)
            median, slow = statistics.median(delays), sorted(delays)[int(0.95 * len(delays))]
            print(
                f"brush: the stroke is in its frame {median:.1f} ms after the mouse has moved "
                f"(median of {len(delays)}; the slowest of twenty, {slow:.1f} ms)"
            )
            for rank in RANKS:
                # The first run does not count: it computes the second moment.
                seconds = [time_execute(page, rank) for _ in range(RUNS + 1)][1:]
                median = statistics.median(seconds)
                print(f"Execute, least-squares, rank {rank}: {median:.2f} s (median of {RUNS})")
        finally:
            browser.close()
            server.terminate()
            server.wait()


def time_first_image(page: Page, url: str) -> float:
    """Measure the seconds until an image of the gallery is shown."""
    begun = time.perf_counter()
    page.goto(url)
    image = page.locator(".tile img").first
    image.wait_for()
    image.evaluate("image => image.decode()")
    return time.perf_counter() - begun


def time_strokes(page: Page) -> list[float]:
    """Measure the milliseconds from each movement of the mouse to its frame."""
    page.get_by_role("button", name="Brush (B)").click()
    page.evaluate(STROKES)
    box = page.locator(".canvas").bounding_box()
    assert box is not None
    left, top = box["x"] + 60, box["y"] + box["height"] / 2
    page.mouse.move(left, top)
    page.mouse.down()
    for step in range(120):
        page.mouse.move(left + 2 * step, top + 20 * (step % 7))
        page.wait_for_timeout(5)
    page.mouse.up()
    page.wait_for_timeout(200)
    page.keyboard.press("Control+z")
    page.wait_for_timeout(500)
    found: list[float] = page.evaluate("window.delays")
    return found


def time_execute(page: Page, rank: int) -> float:
    """Measure the seconds from Execute to the figures of its result."""
    area = page.get_by_label("Text of the spec")
    text = re.sub(r"rank: \d+", f"rank: {rank}", area.input_value())
    solver = f"{{method: least-squares, collateral_weight: {new_weight():.6f}}}"
    text = re.sub(r"solver: .*", f"solver: {solver}", text)
    area.fill(text)
    page.wait_for_timeout(1200)
    milliseconds: float = page.evaluate(EXECUTE)
    return milliseconds / 1000


def new_weight() -> float:
    """Return a collateral weight that no run had before.

    The cache would answer a second time.
    """
    return 0.02 + (time.time() % 1000) / 1e6


if __name__ == "__main__":
    main()
