"""Every reader of foreign data on seeded mutants: an error of ours, or the data.

``python -m benchmarks.fuzz`` runs as many as are wanted, and prints a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.fuzz import Outcome, Reader, make_readers, run_reader

COUNT = {"specs": 150, "specs, JSON": 150, "exported, text": 100, "HTTP answers": 150}
COUNT |= {"patches, made": 300, "rules, made": 300}
COUNT |= {"rows, JSON lines": 100, "rows, CSV": 100}
"""Fewer than 600 where one takes long."""

NAMES = (
    "specs", "specs, JSON", "rows, JSON lines", "rows, CSV", "locks", "masks", "records", "patches",
    "patches, made", "rules",
    "rules, made", "headers", "indices",
    "pickles", "zips", "old .pt", "rewritten", "exported", "exported, text", "zips, pickle",
    "arrays", "HTTP answers",
)  # fmt: skip
WHOLE = (
    "specs",
    "specs, JSON",
    "rows, JSON lines",
    "locks",
    "masks",
    "patches",
    "patches, made",
    "rules",
    "rules, made",
    "headers",
    "indices",
    "zips",
    "rewritten",
    "exported",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def readers(folder: Path) -> Mapping[str, Reader]:
    return make_readers(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("share", ["a quarter", pytest.param("all", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_read_or_refused(
    name: str, share: str, readers: Mapping[str, Reader], folder: Path
) -> None:
    count = COUNT.get(name, 600)
    outcome = run_reader(readers[name], count if share == "all" else count // 4, 0, folder)
    assert outcome.defects == []
    assert outcome.slowest < 10
    assert outcome.memory < 2**30
    assert outcome.refused > 0


def test_all_readers_are_run(readers: Mapping[str, Reader]) -> None:
    assert tuple(readers) == NAMES


@pytest.mark.parametrize("name", WHOLE)
def test_what_mutants_are_made_of_is_read(
    name: str, readers: Mapping[str, Reader], folder: Path
) -> None:
    reader = readers[name]
    for seed in reader.seeds[-1:]:
        path = folder / f"whole{reader.suffix}"
        path.write_bytes(seed)
        assert reader.read(path) is not None


def test_a_reader_with_a_defect_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> object:
        return path.read_bytes()[10**6]

    outcome: Outcome = run_reader(Reader(read, ".x", [b"abc"]), 5, 0, tmp_path)
    assert len(outcome.defects) == 5
    assert "IndexError" in outcome.to_line("x") + outcome.defects[0]
    assert fuzz.HEAD
