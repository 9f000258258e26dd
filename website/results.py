"""The pictures of what comes out: ``python -m website.results``.

``docs/pull-request.png`` is the summary that a pull request is shown, as `editspec ci review`
writes it. ``docs/report.png`` is the beginning of the page that ``build --report`` writes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import markdown
from playwright.sync_api import Browser, sync_playwright

import editspec
from website.build import ROOT

DOCS = ROOT / "docs"
SKYLINE = ROOT / "specs" / "skyline"
RECIPE = "dark_windows_to_lit.yaml"

STYLE = """<style>
body { margin: 0; padding: 28px 36px; font: 16px/1.5 system-ui, sans-serif; color: #1f2328; }
h2, h3 { border-bottom: 1px solid #d1d9e0; padding-bottom: 6px; }
table { border-collapse: collapse; }
td, th { border: 1px solid #d1d9e0; padding: 6px 12px; text-align: left; }
code, pre { background: #f6f8fa; border-radius: 6px; font: 14px/1.45 monospace; }
pre { padding: 14px; }
h2 code { font: inherit; }
td:not(:last-child) { white-space: nowrap; }
img { max-width: 100%; }
</style>"""
"""How a forge shows Markdown, roughly."""


def main() -> None:
    """Review and build a recipe in a folder of its own, and photograph what they write."""
    browser_path = os.environ.get("EDITSPEC_BROWSER") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        shutil.copytree(SKYLINE, folder / "edits", ignore=shutil.ignore_patterns("paper", "*.lock"))
        os.chdir(folder)
        spec = Path("edits", RECIPE)
        editspec.ci_review([spec], "review")
        editspec.build(spec, "out", check=True, report=True)
        text = markdown.markdown(Path("review/summary.md").read_text(), extensions=["tables"])
        Path("review/summary.html").write_text(STYLE + text)
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        photograph(browser, folder / "review" / "summary.html", "pull-request", whole=True)
        photograph(browser, folder / "out" / "report.html", "report", whole=False)
        browser.close()


def photograph(browser: Browser, page_file: Path, name: str, whole: bool) -> None:
    """Keep a picture of a page, whole or as a screen shows it."""
    # A whole page is as high as what is on it, and no lower than the screen.
    page = browser.new_page(viewport={"width": 1000, "height": 100 if whole else 1240})
    page.goto(page_file.as_uri())
    page.screenshot(path=DOCS / f"{name}.png", full_page=whole)
    page.close()


if __name__ == "__main__":
    main()
