"""The browser that pages are looked at with."""

from __future__ import annotations

import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DEVELOP = str(Path(__file__).parents[1] / "develop.py")


def test_it_opens_pages_and_says_what_is_wrong_with_them(browser: Browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(error.message))
    page.set_content("<h1>A page</h1>")
    assert (page.inner_text("h1"), said) == ("A page", [])
    page.set_content("<script>console.error('one'); throw new Error('two')</script>")
    assert said == ["one", "two"]
    page.close()


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, str], list[list[str]]]]:
    """What develop.py tells the tests, and what it runs, on a machine with certain programs, as
    root or not.
    """

    def found(
        programs: set[str], root: bool, works: bool = True
    ) -> tuple[dict[str, str], list[list[str]]]:
        ran: list[list[str]] = []

        def run(command: list[str], **_: object) -> None:
            ran.append(command)
            if works and "install" in command:
                programs.add(command[-1])

        monkeypatch.delenv("EDITSPEC_BROWSER", raising=False)
        monkeypatch.setattr(
            "shutil.which", lambda name: f"/bin/{name}" if name in programs else None
        )
        monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr(subprocess, "run", run)
        return runpy.run_path(DEVELOP)["browser"](), ran

    return found


def test_develop_installs_it_only_where_it_is_missing_and_can_be(
    find: Callable[..., tuple[dict[str, str], list[list[str]]]],
) -> None:
    assert find({"google-chrome", "apt-get"}, root=True) == (
        {"EDITSPEC_BROWSER": "/bin/google-chrome"},
        [],
    )
    told, ran = find({"apt-get"}, root=True)
    assert told == {"EDITSPEC_BROWSER": "/bin/chromium"}
    assert [command[-1] for command in ran] == ["update", "chromium"]
    # Where it was tried in vain, a browser is named that is not there: the tests fail, and do not
    # skip.
    assert find({"apt-get"}, root=True, works=False)[0] == {"EDITSPEC_BROWSER": "/usr/bin/chromium"}
    assert find({"apt-get"}, root=False) == ({}, [])
    assert find(set(), root=True) == ({}, [])
