"""The tutorial, walked with its own words on two machines: a laptop and a CI."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from editspec_runtime.families.open import read_weights
from tests.commands import contents, git, run
from tests.docs_text import ROOT, blocks, command_lines
from tests.end_to_end.test_ci import WORKFLOW, Runner

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
LINES = list(command_lines(TUTORIAL))

QUICK = {"rank: 16": "rank: 2", "edits:\n": "statistics: {samples: 48}\nedits:\n"}
"""What is changed in the spec of the tutorial so that it is solved at once."""

PATCH = "patches/01-dome-to-spire.safetensors"


class Files(http.server.SimpleHTTPRequestHandler):
    """A server of a folder, which keeps its log to itself."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """The address of a host of models, which serves the folder ``host``."""
    folder = tmp_path / "host"
    folder.mkdir()
    handler = functools.partial(Files, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Walk:
    """The lines that the tutorial prints, run one after the other in the working folder."""

    def __init__(self) -> None:
        self.waiting = [line for line in LINES if line[:2] != ["pip", "install"]]

    def next(self, *begin: str) -> str:
        """Run the next line, which begins with these words; return what it says."""
        program, *words = self.waiting.pop(0)
        assert (program, *words)[: len(begin)] == begin
        if program == "git":
            return git(Path(), *words)
        result = run(*(each for word in words for each in sorted(Path().glob(word)) or [word]))
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def skip(self, *begin: str) -> None:
        """Leave out a line that other tests run."""
        assert tuple(self.waiting.pop(0)[: len(begin)]) == begin


def workflow_inputs(job: str) -> dict[str, str]:
    """The inputs that the workflow of a new folder gives to the action in a job."""
    steps = yaml.safe_load(Path(".github/workflows/edits.yml").read_text())["jobs"][job]["steps"]
    (step,) = (step for step in steps if "/editspec@" in step.get("uses", ""))
    return dict(step["with"])


def test_the_tutorial_commits_all_that_init_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", "--model", "builtin:skyline").exit_code == 0
    (added,) = (line[2:] for line in LINES if line[:2] == ["git", "add"])
    assert {path.name for path in tmp_path.iterdir()} == set(added)


@pytest.mark.slow
def test_the_tutorial_holds_on_two_machines(
    program: Path, tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk, server = Walk(), tmp_path / "server"
    origin = server / "owner" / "models"
    origin.mkdir(parents=True)
    git(origin, "init", "-q", "--bare")

    # On the laptop: a model, a folder, a spec.
    laptop = tmp_path / "laptop" / "my edits"
    laptop.mkdir(parents=True)
    monkeypatch.chdir(laptop)
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "laptop cache"))
    torch.set_num_threads(3)
    assert "`editspec convert builtin:skyline weights/town.safetensors`" in TUTORIAL
    assert run("convert", "builtin:skyline", "weights/town.safetensors").exit_code == 0
    assert "layer7" in walk.next("editspec", "inspect")
    walk.next("editspec", "init")
    git(laptop, "init", "-q")
    git(laptop, "remote", "add", "origin", str(origin))
    git(laptop, "add", "-A")
    git(laptop, "commit", "-qm", "A folder for edits")
    git(laptop, "push", "-q", "origin", "main")
    assert "    mv recipes/first.yaml recipes/spires.yaml\n" in TUTORIAL
    Path("recipes/first.yaml").rename("recipes/spires.yaml")
    walk.skip("editspec", "studio")
    spec, elsewhere = (text for text in blocks(TUTORIAL, "yaml"))
    for old, new in QUICK.items():
        assert old in spec
        spec = spec.replace(old, new)
    spec = spec.replace("at_least: 0.5", "at_least: 0.01").replace("at_most: 0.02", "at_most: 0.1")
    Path("recipes/spires.yaml").write_text(spec)
    walk.next("editspec", "build")
    first = contents(Path("out"))
    walk.next("editspec", "render")
    assert Path("out/before-after.png").is_file()

    # The weights lie where CI can fetch them.
    shutil.copy("weights/town.safetensors", tmp_path / "host")
    sha256 = hashlib.sha256(Path("weights/town.safetensors").read_bytes()).hexdigest()
    assert f"/town.safetensors#sha256={sha256}\n" in elsewhere
    served = f"{host}/town.safetensors#sha256={sha256}"
    Path("recipes/spires.yaml").write_text(spec.replace("../weights/town.safetensors", served))
    assert "up to date" in walk.next("editspec", "build")
    assert contents(Path("out"))[PATCH] == first[PATCH]
    walk.next("git", "switch")
    walk.next("git", "add")
    walk.next("git", "commit")
    walk.next("git", "push")
    assert not git(laptop, "ls-files").count("safetensors")
    head = git(laptop, "rev-parse", "HEAD")

    # In CI: the review of the pull request, in a fresh clone with a cache of its own.
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "ci cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    review = tmp_path / "ci" / "review"
    git(tmp_path, "clone", "-q", str(origin), str(review))
    git(review, "checkout", "-q", head)
    monkeypatch.chdir(review)
    inputs = workflow_inputs("review")
    assert inputs.pop("base") == "${{ github.event.pull_request.base.sha }}"
    base = git(review, "rev-parse", "origin/main")
    ran = Runner(program, review, server).run(**inputs, base=base)
    assert ran.code == 0, ran.log
    assert "## `recipes/spires.yaml`: passed" in ran.summary
    assert "It has no lock of this spec: everything is new." in ran.summary
    artifact = review / "editspec-out"
    built = artifact / "recipes" / "spires.yaml" / "build"
    assert (built / PATCH).read_bytes() == first[PATCH]  # whatever the threads and the folder

    # The merge, and what it gives, in another clone with an empty cache.
    merge = tmp_path / "maintainer"
    git(tmp_path, "clone", "-q", str(origin), str(merge))
    git(merge, "merge", "-q", "--no-ff", "-m", "Merge", "origin/spires")
    git(merge, "push", "-q", "origin", "main")
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "empty"))
    main = tmp_path / "ci" / "apply"
    git(tmp_path, "clone", "-q", str(origin), str(main))
    monkeypatch.chdir(main)
    ran = Runner(program, main, server).run(**workflow_inputs("apply"), reviewed=str(artifact))
    assert ran.code == 0, ran.log
    assert "As reviewed, the patches that the lock names: `dome-to-spire`" in ran.summary
    assert "Built now" not in ran.summary

    # Back on the laptop: the same commands by hand give the same bytes, and all is explained.
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "laptop cache"))
    monkeypatch.chdir(laptop)
    git(laptop, "fetch", "-q")
    walk.next("editspec", "ci", "review")
    walk.next("editspec", "ci", "apply")
    edited = "recipes/spires.yaml/edited.safetensors"
    shipped = (main / "editspec-out" / edited).read_bytes()
    assert Path("merged", edited).read_bytes() == shipped
    walk.next("editspec", "verify")
    assert "explained" in walk.next("editspec", "audit")
    assert not walk.waiting
    assert read_weights(Path("merged", edited)).digest() in ran.summary


def test_the_example_and_the_hook_watch_the_folder_of_the_tutorial() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    (on,) = (workflow[key] for key in workflow if key in ("on", True))
    assert on["pull_request"]["paths"] == on["push"]["paths"] == ["recipes/**"]
    for job in workflow["jobs"].values():
        assert job["steps"][-1]["with"]["specs"] == "recipes/*.yaml"
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    for name in ("recipes/spires.yaml", "recipes/spires.yaml.lock", "a/recipes/b/c.json"):
        assert re.search(hook["files"], name)
    assert not re.search(hook["files"], "weights/config.json")
