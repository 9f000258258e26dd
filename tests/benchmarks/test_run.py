"""The run of the benchmarks: what it collects, and what it says of what could not run. Nothing is
timed here.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks import run
from benchmarks.figures import CannotRun, Figure


def test_every_module_has_benchmarks_that_say_what_they_measure() -> None:
    for name in run.MODULES:
        benchmarks = importlib.import_module(f"benchmarks.{name}").BENCHMARKS
        assert benchmarks
        assert all(benchmark.__doc__ for benchmark in benchmarks)


def test_what_could_not_run_is_printed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fast(quick: bool) -> Iterator[Figure]:
        """Something."""
        yield Figure.at_least("a against b", 3.0, 2, seconds=0.5)
        yield Figure.at_least("c against b", 1.0, 2)

    def impossible(quick: bool) -> Iterator[Figure]:
        """Something else."""
        raise CannotRun("no GPU here")
        yield

    module = SimpleNamespace(BENCHMARKS=(fast, impossible))
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    result = run.run_modules(["any"], quick=True)
    assert [figure["reached"] for figure in result["figures"]] == [True, False]
    assert json.loads(json.dumps(result)) == result
    text = run.format_markdown(result)
    assert "| a against b | 3 times | at least 2 | yes |" in text
    assert "| c against b | 1 times | at least 2 | **no** |" in text
    assert "Could not run: any.impossible: no GPU here." in text
