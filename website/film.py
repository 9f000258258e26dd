"""The pictures of the studio: ``python -m website.film``.

A browser makes an edit with the mouse, as a reader would, and the screenshots become an animation
(``docs/studio.webp``); the last of them is ``docs/studio.png``. What the spec, the patch and git
say of it comes from the commands themselves.
"""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, sync_playwright

from tests.studio.served import Served

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

BEGIN = 'version: 1\nmodel: {family: stylegan2, weights: "builtin:skyline"}\n'

WIDTH, CAPTION = 1000, 44
"""The width of the animation, and the height of the line below each picture."""

LIT, DARK = 0, 6
"""An image with lit windows, and one with dark windows."""

WINDOWS = ((11, 30), (53, 42))
"""Two corners of a box around the windows, which lie at one place in all images."""

PATIENCE = 120_000
"""Milliseconds after which a gesture is given up."""

SETTLED = 2500
"""Milliseconds until a busy machine has drawn what a gesture asks for."""

SHEET = '<body style="margin:0;padding:40px 20px;background:white">'

TERMINAL = """<body style="margin:0;padding:28px 36px;background:#14171a;color:#e8ebee;
font:17px/1.5 'DejaVu Sans Mono',monospace;white-space:pre-wrap">"""


@dataclass
class Film:
    """Frames of an animation, each with the milliseconds that it is shown for."""

    folder: Path
    frames: list[Image.Image] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)

    def add(self, page: Page, caption: str, milliseconds: int) -> None:
        """Add what a page shows, with a caption below it."""
        path = self.folder / "frame.png"
        page.evaluate(
            "() => Promise.all([...document.images].map(image => image.decode().catch(() => 0)))"
        )
        page.screenshot(path=path, animations="disabled")
        with Image.open(path) as shot:
            height = round(shot.height * WIDTH / shot.width)
            frame = Image.new("RGB", (WIDTH, height + CAPTION), "white")
            size = (WIDTH, height)
            frame.paste(shot.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        pen = ImageDraw.Draw(frame)
        pen.rectangle((0, height, WIDTH, height + CAPTION), fill="#1c2024")
        font = ImageFont.load_default(20)
        pen.text((20, height + CAPTION // 2), caption, fill="white", font=font, anchor="lm")
        self.frames.append(frame)
        self.durations.append(milliseconds)

    def save(self, path: Path) -> None:
        """Write the animation, which begins again at its end."""
        first, *rest = self.frames
        first.save(
            path,
            save_all=True,
            append_images=rest,
            duration=self.durations,
            loop=0,
            quality=80,
            method=6,
        )


def main() -> None:
    """Make the edit, and write the pictures."""
    browser_path = os.environ.get("EDITSPEC_BROWSER") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        run(folder, "git", "init", "-q", "-b", "main")
        (folder / "edits.yaml").write_text(BEGIN)
        run(folder, "git", "add", "edits.yaml")
        run(folder, "git", *COMMITTER, "commit", "-q", "-m", "A model")
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        studio = Served(folder, folder, browser)
        film = Film(folder)
        try:
            make_edit(studio, film)
        finally:
            studio.stop()
        show_result(browser.new_page(viewport={"width": 1280, "height": 720}), film)
        film.save(DOCS / "studio.webp")
        browser.close()


COMMITTER = ("-c", "user.name=editspec", "-c", "user.email=editspec@localhost")


def make_edit(studio: Served, film: Film) -> None:
    """Copy lit windows onto dark ones, say where that holds, execute, and save."""
    page = studio.page
    page.set_default_timeout(PATIENCE)
    page.get_by_text("Add", exact=True).first.click()
    studio.expect("name: edit-1")
    page.locator(".segment[title^='layer7']").click()
    studio.expect("layer: layer7")
    studio.image(LIT)
    studio.button("Box (R)").click()
    studio.drag(*WINDOWS)
    studio.expect(f"source: {{latent: {LIT}, mask: masks/")
    film.add(page, "1  Copy: mark the lit windows of one image", 2200)
    studio.step("Paste")
    studio.image(DARK)
    studio.expect(f"target: {{latent: {DARK}")
    page.locator(".canvas.floating").wait_for()
    page.wait_for_timeout(SETTLED)
    film.add(page, "2  Paste: onto dark windows of another; the model draws the rest", 2200)
    studio.step("Context")
    studio.image(DARK)
    page.get_by_text("Search similar places").click()
    for count in (2, 3, 4):
        page.locator("[data-key^='found-']").first.click()
        studio.expect(rf"(- \{{latent: \d+, mask.*\n.*){{{count}}}")
    page.wait_for_timeout(SETTLED)
    film.add(page, "3  Context: the search finds more dark windows", 2200)
    studio.execute()
    page.get_by_role("button", name="Preserve other images").click()
    studio.expect(r"preserve:\n *- \{latents: \[")
    page.locator("dd:has-text('rank 16')").wait_for()
    page.wait_for_timeout(SETTLED)
    film.add(page, "4  Execute: the model has a new rule; images before and after", 2600)
    shutil.copy(film.folder / "frame.png", DOCS / "studio.png")
    page.locator(".tile").last.hover()
    page.mouse.wheel(0, 240)
    page.wait_for_timeout(SETTLED)
    film.add(page, "    every dark church is lit, whatever else it looks like", 1600)
    studio.button("Save").click()
    page.locator(".is-saved").wait_for()


def show_result(page: Page, film: Film) -> None:
    """Show what git and the build say, as a terminal would."""
    folder = film.folder
    run(folder, sys.executable, "-m", "editspec", "build", "edits.yaml", "-o", "out")
    render = [sys.executable, "-m", "editspec", "render", "edits.yaml", "-o", "sheet.png"]
    run(folder, *render, "--count", "16")
    sheet = base64.b64encode((folder / "sheet.png").read_bytes()).decode()
    page.set_content(f'{SHEET}<img src="data:image/png;base64,{sheet}" width="1240">')
    film.add(page, "5  Images that nobody has looked at, before and after", 2800)
    (patch,) = (folder / "out" / "patches").iterdir()
    size = f"{patch.stat().st_size:,} bytes"
    difference = shorten(run(folder, "git", "diff", "-U0", "edits.yaml"))
    page.set_content(
        TERMINAL
        + terminal("git diff", difference)
        + terminal("editspec build edits.yaml -o out", "")
        + terminal("wc -c out/patches/*", f"{size}  out/patches/{patch.name}")
    )
    film.add(page, f"6  What is reviewed is text; what ships is a patch of {size}", 4200)


def terminal(command: str, output: str) -> str:
    """Write a command and its output as HTML."""
    lines = []
    for line in output.splitlines():
        colour = {"+": "#7ee787", "-": "#ff7b72"}.get(line[:1], "#9aa4ae")
        lines.append(f'<span style="color:{colour}">{html.escape(line)}</span>')
    return f"<b>$ {html.escape(command)}</b>\n" + "\n".join(lines) + "\n\n"


def shorten(difference: str) -> str:
    """Leave out the head of a difference, and the end of its long lines."""
    lines = [
        line for line in difference.splitlines() if not re.match(r"diff|index|---|\+\+\+|@@", line)
    ]
    return "\n".join(line if len(line) < 96 else f"{line[:94]} …" for line in lines)


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder, and return what it prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
