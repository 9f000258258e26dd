"""What executes leave on the disk lies in the cache, where it can be pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.commands import said


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_executes_leave_their_results_in_the_cache_alone(
    make_studio: Callable[..., Any], own_cache: Path
) -> None:
    studio = make_studio()
    studio.make_edit()
    project, sizes = studio.path.parent, []
    for rank in range(1, 5):
        studio.call("PATCH", "edits/0", {"rank": rank})
        state = studio.run("execute")
        assert state["results"]["current"]
        sizes.append((size_of(project), size_of(own_cache)))
    # Each execute adds patches and rules to the cache, and its text to the draft.
    assert sizes[-1][1] - sizes[0][1] > 50_000
    assert sizes[-1][0] - sizes[0][0] < 5_000
    counted = said("cache")["entries"]
    # What this studio has used stays while it runs; its end lets go of it.
    assert said("cache", "prune", "--older-than", 0)["removed"] == 0
    assert counted == said("cache")["entries"]
