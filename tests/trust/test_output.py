"""Names of others neither steer a terminal, nor are they Markdown, options or workflow commands."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from editspec.cli.output import answer, report_errors
from editspec.engine.checks import CheckRow
from editspec.engine.result import CommandResult
from editspec.views.checks import checks_junit, checks_markdown, checks_table
from editspec.views.text import markdown_block, markdown_code, markdown_text, visible_lines
from editspec_runtime.errors import FileError

ROOT = Path(__file__).parents[2]
STEERING = ["\x1b[31mred", "\x1b]0;title\x07", "a\rb", "\u202egnp", "\x9b31m", "\x00", "a\u2028b"]


@dataclass(frozen=True)
class Named(CommandResult):
    name: str

    def to_text(self) -> str:
        return f"{self.name}: whole\nnext line"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", STEERING)
def test_results_are_printed_visibly(
    name: str, terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    answer(Named(name), as_json=False)
    out = capsys.readouterr().out
    assert out.splitlines()[1:] == ["next line"]
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", STEERING)
def test_errors_are_printed_visibly(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BaseException), report_errors(False, False):  # noqa: B017, PT011 - typer's
        raise FileError(f"{name} is damaged.")
    err = capsys.readouterr().err
    assert err.replace("\n", "").isprintable()
    assert "is damaged" in err


def test_what_is_harmless_stays_as_it_is() -> None:
    text = "dome-to-spire: whole, rank 2; Türme 塔\n  hint: build_again (x) 0.5"
    assert visible_lines(text) == text
    assert markdown_text("dome_to_spire 0.5 (x)") == "dome_to_spire 0.5 (x)"
    assert markdown_code("specs/a b.yaml") == "`specs/a b.yaml`"


@pytest.mark.parametrize("name", ["a`b", "```", "a\nb", "a\r\n::error::x", "``a`"])
def test_a_name_ends_no_code(name: str) -> None:
    shown = markdown_code(name)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    inside = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence)
    assert fence not in inside
    assert "\n" not in shown


@pytest.mark.parametrize(
    "text",
    ["[a](http://b)", "<img src=x>", "**a**", "a | b", "@somebody", "#12", "![a](b)", "a\n# b"],
)
def test_a_text_is_no_markdown(text: str) -> None:
    shown = markdown_text(text)
    assert "\n" not in shown
    assert not any(mark in shown for mark in ("[", "<", "*", "|", "@", "://", "!"))
    assert not shown.startswith("# ")


def test_a_block_is_one_block() -> None:
    lines = markdown_block("a\x0b::error::b\n```\nc\u2028# d")
    assert all(line.startswith("    ") and line.isprintable() for line in lines)
    assert len(lines) == 3


def test_tables_of_checks_hold_names_of_others() -> None:
    name = "[red]a[/]\x1b[31m|`<b>`"
    row = CheckRow(name, "retention", name, 0.5, ("at least", 0.1), "error", "passed", name)
    for colours in (False, True):
        table = checks_table([row], 400, colours=colours)
        assert r"[red]a[/]\x1b[31m" in table
        assert "\x1b[31m|" not in table
    assert checks_markdown([row]).splitlines()[-1].count("|") == 8
    assert b"\x1b" not in checks_junit([row], Path("a\x1b.yaml"))


def run_action(folder: Path, specs: str, said: str = "") -> tuple[int, list[str], str]:
    """What .ci/action gives to editspec, its exit code, and what it prints."""
    tool = folder / "bin" / "editspec"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >arguments\nprintf '%s' '{said}'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    environment = {
        "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}",
        "SPECS": specs,
        "COMMAND": "review",
        "OUT": "-o",
        "BASE": "--help",
        "GITHUB_OUTPUT": str(folder / "output"),
    }
    ran = subprocess.run(
        [ROOT / ".ci" / "action"], cwd=folder, env=environment, capture_output=True, text=True
    )
    given = folder / "arguments"
    arguments = given.read_text().split("\0")[:-1] if given.exists() else []
    return ran.returncode, arguments, ran.stdout


def test_names_of_files_are_no_options(tmp_path: Path) -> None:
    names = [
        "-o.yaml",
        "--debug.yaml",
        "a\nb.yaml",
        "a b.yaml",
        "`id`.yaml",
        "$(id).yaml",
        "*.yaml",
    ]
    for name in names:
        (tmp_path / name).touch()
    code, arguments, _ = run_action(tmp_path, "*.yaml")
    assert code == 0
    assert arguments[:2] == ["ci", "review"]
    assert arguments[2:5] == ["--out=-o", "--base=--help", "--"]
    assert sorted(arguments[5:]) == sorted(names)


def test_what_is_printed_is_no_workflow_command(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    _, _, out = run_action(tmp_path, "a.yaml", "::error::x")
    first, said, last = out.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert (said, last) == ("::error::x", f"::{token}::")
    assert len(token) == 32


def test_a_spec_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").touch()
    code, arguments, _ = run_action(tmp_path, "there.yaml\nnot-there.yaml")
    assert (code, arguments) == (2, [])


def test_pip_is_not_taken_from_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "pip.py").write_text("open('ran', 'w').close()")
    action = (ROOT / "action.yml").read_text()
    command = next(line for line in action.splitlines() if "pip install" in line)
    options = command.partition("python ")[2].partition(" install")[0].split()
    subprocess.run([sys.executable, *options, "--version"], cwd=tmp_path, check=True)
    assert not (tmp_path / "ran").exists()
