"""How fast the studio is, in a browser, on Skyline: ``python benchmarks/studio.py [CHROMIUM]``.

Prints the time from the opening of the page to its first image, from a movement of the mouse to the
frame that shows the stroke, and from Execute to its result, with the second moment of the layer in
the cache.
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

RECIPE = Path(__file__).parents[1] / "specs" / "skyline" / "dome_to_spire.yaml"
RANKS = (1, 4, 8, 16)
RUNS = 5

STROKES = """() => {
    window.delays = [];
    // The page has asked for its frame before this listener does, and paints in it first.
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
    }).observe(document.querySelector(".outcome"), {childList: true, subtree: true});
    document.querySelector("[data-key=execute]").click();
})"""


def main() -> None:
    browser_path = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        shutil.copytree(RECIPE.parent / "masks", Path(folder, "masks"))
        text = RECIPE.read_text()
        solver = re.search(r"    solver: .*\n", text)
        assert solver is not None
        spec = Path(folder, "edits.yaml")
        spec.write_text(text.replace(solver[0], "    solver: least-squares\n"))
        command = [sys.executable, "-m", "editspec", "studio", spec, "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        try:
            print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {browser.version}")
            print(f"first image: {first_image(page, url):.2f} s after the page was opened")
            delays = strokes(page)
            print(
                f"brush: the stroke is in its frame {statistics.median(delays):.1f} ms after the mouse has moved "
                f"(median of {len(delays)}; the slowest of twenty, {sorted(delays)[int(0.95 * len(delays))]:.1f} ms)"
            )
            for rank in RANKS:
                seconds = [execute(page, rank) for _ in range(RUNS + 1)][1:]
                print(
                    f"Execute, least-squares, rank {rank}: {statistics.median(seconds):.2f} s (median of {RUNS})"
                )
        finally:
            browser.close()
            server.terminate()
            server.wait()


def first_image(page: Page, url: str) -> float:
    """Seconds until an image of the gallery is there."""
    begun = time.perf_counter()
    page.goto(url)
    image = page.locator(".tile img").first
    image.wait_for()
    image.evaluate("image => image.decode()")
    return time.perf_counter() - begun


def strokes(page: Page) -> list[float]:
    """Milliseconds from each movement of the mouse to the end of the painting of its frame."""
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


def execute(page: Page, rank: int) -> float:
    """Seconds from Execute to the figures of its result."""
    area = page.get_by_label("Text of the spec")
    text = re.sub(r"rank: \d+", f"rank: {rank}", area.input_value())
    text = re.sub(
        r"solver: .*", f"solver: {{method: least-squares, collateral_weight: {fresh():.6f}}}", text
    )
    area.fill(text)
    page.wait_for_timeout(1200)
    milliseconds: float = page.evaluate(EXECUTE)
    return milliseconds / 1000


def fresh() -> float:
    """A collateral_weight that no run had before: what is solved once is not solved again."""
    return 0.02 + (time.time() % 1000) / 1e6


if __name__ == "__main__":
    main()
