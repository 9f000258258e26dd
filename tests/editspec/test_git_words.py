"""What git says where it fails, and no reprs of Python in facts."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from editspec.engine.facts import FileFacts
from editspec.engine.git import find_commit
from editspec_runtime.errors import UsageError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    subprocess.run(["git", "init", "-q", "."], check=True)
    return tmp_path


def test_an_unknown_revision_is_named(checkout: Path) -> None:
    with pytest.raises(UsageError, match="git knows no revision nowhere"):
        find_commit("nowhere")


def test_no_repository_is_told_in_the_words_of_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="git fails: not a git repository"):
        find_commit("HEAD")


def test_dubious_ownership_is_told_with_its_remedy(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("HOME", str(checkout))
    with pytest.raises(UsageError, match="git fails: detected dubious ownership") as error:
        find_commit("HEAD")
    assert "safe.directory" in error.value.hint


@dataclass(frozen=True)
class Facts(FileFacts):
    """Facts of every type."""

    def to_dict(self) -> dict[str, Any]:
        nested = {"a": None, "b": True, "c": ["x", "y"], "d": {"e": [3, 4], "f": False}}
        return {"shape": [2, 3], "notes": ["one", "two"], "solver": nested, "whole": True}


def test_facts_have_no_reprs_of_python() -> None:
    text = Facts().to_text()
    assert "shape: 2 x 3\nnotes: one, two\n" in text
    assert "d: e 3 x 4, f no" in text
    assert text.endswith("whole: yes")
    for repr_ in ("None", "True", "False", "['", "{'"):
        assert repr_ not in text
