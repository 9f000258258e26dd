"""Names of files that lead nowhere are named for what they are."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from editspec_runtime.errors import FileError
from editspec_runtime.io.file_names import find_hint
from editspec_runtime.io.files import require_file

THERE = ("church.pt", "masks/dome 31.png", "masks/Spire.png", "one-two.npz", "caf\u00e9.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in THERE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "meant", "what"),
    [
        ("chruch.pt", "church.pt", ""),
        ("church.pth", "church.pt", ""),
        ("Church.pt", "church.pt", ""),
        ("mask/dome 31.png", "masks/dome 31.png", ""),
        ("masks/spire.png", "masks/Spire.png", ""),
        ("masks\\Spire.png", "masks/Spire.png", "backslash"),
        ("masks/dome\u00a031.png", "masks/dome 31.png", "no-break space (U+00A0)"),
        ("\u201cchurch.pt\u201d", "church.pt", "curly quotation mark (U+201C)"),
        ("one\u2013two.npz", "one-two.npz", "dash that is not a hyphen (U+2013)"),
        ("church\u200b.pt", "church.pt", "nobody sees (U+200B)"),
        (" church.pt", "church.pt", "begins or ends in a space"),
        ("'church.pt'", "church.pt", "quotation marks"),
    ],
)
def test_a_name_that_is_near_another(folder: Path, name: str, meant: str, what: str) -> None:
    hint = find_hint(name, folder)
    assert f'did you mean "{meant}"?' in hint
    assert what in hint


def test_accents_in_another_form(folder: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "caf\u00e9.png")
    assert "form NFC" in find_hint(decomposed, folder)
    (folder / "caf\u00e9.png").rename(folder / decomposed)
    assert "form NFD" in find_hint("caf\u00e9.png", folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://example.com/a.png", "download the file"),
        ("~/masks/a.png", "~ is not expanded"),
        ("$HOME/a.png", "variables are not expanded"),
        ("C:\\masks\\a.png", "a backslash"),
        ("castle.pt", ""),
        ("masks/none.png", ""),
        ("x" * 5000, ""),
    ],
)
def test_a_name_that_is_near_no_other(folder: Path, name: str, words: str) -> None:
    hint = find_hint(name, folder)
    assert words in hint
    assert "did you mean" not in hint
    assert bool(hint) is bool(words)


def test_files_that_commands_name_are_told_alike(folder: Path) -> None:
    with pytest.raises(FileError) as error:
        require_file(folder / "chruch.pt")
    assert error.value.hint == f'Did you mean "{folder}/church.pt"?'
    with pytest.raises(FileError) as error:
        require_file(folder / "castle.pt")
    assert error.value.hint.startswith("Check the name")
