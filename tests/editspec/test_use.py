"""Edits that are used from other specs: beside the spec, and in repositories of git."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import editspec
from editspec.engine.lock import Lock, lock_path, read_lock
from editspec.engine.lock_merge import merge_locks
from tests.commands import contents, git, run, said

BOX = {"box": [3, 2, 11, 12]}


def library(weights: str = "../tiny.safetensors", **changes: Any) -> dict[str, Any]:
    """A library with an edit that has a mask of its own, and two parameters."""
    paste = {
        "name": "paste",
        "layer": "layer5",
        "rank": {"parameter": "rank"},
        "source": {"latent": {"parameter": "from"}, "mask": "masks/left.png"},
        "target": {"latent": 1, "mask": {"box": [2, 2, 10, 10]}},
        "context": [{"latents": [1, 4], "mask": "masks/left.png"}],
        "solver": "least-squares",
    }
    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": weights},
        "statistics": {"samples": 16},
        "parameters": {
            "from": {"type": "integer", "description": "The image that is copied from."},
            "rank": {"type": "integer", "default": 2},
        },
        "edits": [paste | changes],
    }


def spec_of(*edits: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": list(edits),
        **more,
    }


def use(
    from_: int, name: str = "paste", place: str = "libs/recipes.yaml#paste", **given: Any
) -> Any:
    return {"use": place, "name": name, "with": {"from": from_, **given}}


def save(path: str, spec: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(spec, sort_keys=False))


def save_mask(path: str, box: tuple[int, int, int, int] = (2, 2, 9, 9)) -> None:
    image = Image.new("L", (16, 16))
    image.paste(255, box)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def lock() -> Lock:
    found = read_lock(lock_path(Path("spec.yaml")))
    assert found is not None
    return found


def statuses() -> list[str]:
    return [edit["status"] for edit in said("plan", "spec.yaml")["edits"]]


def problems(spec: str = "spec.yaml") -> list[tuple[str, str]]:
    """Codes and messages of all that is wrong with a spec."""
    found = said("validate", spec, code=2)["error"]["problems"]
    return [(each["code"].split()[0], each["message"]) for each in found]


def problems_of_build(spec: str) -> list[tuple[str, str]]:
    """Codes and messages of all that is wrong with a spec that is to be built."""
    found = said("build", spec, "-o", "out", code=2)["error"]["problems"]
    return [(each["code"].split()[0], each["message"]) for each in found]


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project with weights, a library with a mask, and a spec that uses it twice."""
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    save("libs/recipes.yaml", library())
    save_mask("libs/masks/left.png")
    save("spec.yaml", spec_of(use(3, "first"), use(5, "second", rank=1)))
    return tmp_path


@pytest.fixture
def repository(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a bare repository with the library, at the tag v1; the spec uses it."""
    work = tmp_path_factory.mktemp("work")
    bare = tmp_path_factory.mktemp("bare") / "recipes.git"
    git(work, "init", "-q")
    weights = str(folder / "tiny.safetensors")
    (work / "sets").mkdir()
    (work / "sets" / "recipes.yaml").write_text(yaml.safe_dump(library(weights)))
    (work / "sets" / "masks").mkdir()
    Path("libs/masks/left.png").rename(work / "sets" / "masks" / "left.png")
    Path("libs/recipes.yaml").unlink()
    git(work, "add", "-A")
    git(work, "commit", "-qm", "Recipes")
    git(work, "tag", "v1")
    git(work, "clone", "-q", "--bare", str(work), str(bare))
    git(work, "remote", "add", "origin", str(bare))
    address = f"git+file://{bare}//sets/recipes.yaml"
    save("spec.yaml", spec_of(use(3, "first", f"{address}@v1#paste")))
    return address


def work_of(repository: str) -> Path:
    """The checkout that pushes to a repository."""
    bare = Path(repository.removeprefix("git+file://").partition("//")[0])
    return Path(git(bare, "config", "remote.origin.url"))


def publish(repository: str, tag: str, **changes: Any) -> str:
    """Change the library, and publish it under a tag; the commit."""
    work = work_of(repository)
    file = work / "sets" / "recipes.yaml"
    old = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(old | library(old["model"]["weights"], **changes)))
    git(work, "commit", "-qam", "Change")
    git(work, "tag", "-f", tag)
    git(work, "push", "-qf", "origin", "HEAD", tag)
    return git(work, "rev-parse", "HEAD")


def test_a_used_edit_is_the_edit_written_out() -> None:
    said("build", "spec.yaml", "-o", "used")
    pasted = library()["edits"][0]
    mask = "libs/masks/left.png"
    written = []
    for name, latent, rank in (("first", 3, 2), ("second", 5, 1)):
        edit = {**pasted, "name": name, "rank": rank}
        edit["source"] = {"latent": latent, "mask": mask}
        edit["context"] = [{"latents": [1, 4], "mask": mask}]
        written.append(edit)
    used = lock()
    save("spec.yaml", spec_of(*written))
    assert statuses() == ["up to date", "up to date"]
    Path("spec.yaml.lock").unlink()
    said("build", "spec.yaml", "-o", "written")
    assert contents(Path("used/patches")) == contents(Path("written/patches"))
    assert lock() == used
    # What differs in the values differs in the patches.
    first, second = sorted(contents(Path("used/patches")).values())
    assert first != second


def test_a_change_of_the_library_is_a_change_of_what_uses_it() -> None:
    said("build", "spec.yaml", "-o", "out", "--provenance")
    assert said("lock", "spec.yaml", "--check")["lock"] == "spec.yaml.lock"
    text = Path("libs/recipes.yaml").read_text()
    Path("libs/recipes.yaml").write_text(f"# A comment.\n{text}")
    assert statuses() == ["up to date", "up to date"]

    changed = library()
    changed["parameters"]["rank"]["default"] = 3
    save("libs/recipes.yaml", changed)
    plan = said("plan", "spec.yaml")["edits"]
    assert [(edit["status"], edit["because"]) for edit in plan] == [
        ("changed", ["rank: 2 -> 3"]),
        ("dependent", ["first"]),
    ]
    refused = run("build", "spec.yaml", "-o", "out", "--frozen")
    assert refused.exit_code == 1
    assert "first: rank: 2 -> 3" in refused.stderr
    selected = said("build", "*.yaml", "-o", "many", "--select", "state:modified+")
    assert [each["spec"] for each in selected["specs"]] == ["spec.yaml"]

    save("libs/recipes.yaml", library())
    save_mask("libs/masks/left.png", (4, 4, 12, 12))
    refused = run("lock", "spec.yaml", "--check")
    assert refused.exit_code == 1
    assert "first: libs/masks/left.png: its content" in refused.stderr


def test_a_new_name_of_a_used_edit_builds_nothing() -> None:
    said("build", "spec.yaml", "-o", "out")
    moved = {"from": "first", "to": "third"}
    save("spec.yaml", spec_of(use(3, "third"), use(5, "second", rank=1), moved=moved))
    assert statuses() == ["moved", "up to date"]


def test_names_of_a_library_of_a_library_lead_to_its_files() -> None:
    inner = {
        "use": "../libs/recipes.yaml#paste",
        "name": "inner",
        "with": {"from": {"parameter": "x"}},
    }
    outer = spec_of(inner, parameters={"x": {"type": "integer"}})
    outer["model"]["weights"] = "../tiny.safetensors"
    save("more/outer.yaml", outer)
    save("spec.yaml", spec_of({"use": "more/outer.yaml#inner", "name": "first", "with": {"x": 3}}))
    loaded = editspec.load("spec.yaml")
    assert list(loaded.files(0)) == ["more/../libs/masks/left.png"]
    assert loaded.spec.edits[0].source.latent == 3
    save("spec.yaml", spec_of({"use": "more/outer.yaml#inner", "with": {"x": "three"}}))
    assert problems() == [("E202", 'expected an integer, found the text "three"')]


def test_a_library_that_asks_for_values_is_valid_and_is_not_built() -> None:
    assert said("validate", "libs/recipes.yaml") == {"valid": True, "asked": ["from"]}
    assert [code for code, _ in problems_of_build("libs/recipes.yaml")] == ["E455"]
    whole = library()
    whole["parameters"]["from"]["default"] = 3
    save("libs/recipes.yaml", whole)
    assert [edit["rank"] for edit in said("validate", "libs/recipes.yaml")["edits"]] == [2]


def test_a_value_that_is_left_out_is_an_error_of_whoever_leaves_it_out() -> None:
    save("spec.yaml", spec_of({"use": "libs/recipes.yaml#paste", "with": {"rank": 1}}))
    assert problems() == [("E456", "libs/recipes.yaml asks for a value of from")]
    assert problems_of_build("spec.yaml") == problems()
    # A library that passes the question on is valid all the same.
    passed = use(0, place="recipes.yaml#paste")
    passed["with"] = {"from": {"parameter": "from"}}
    save("libs/more.yaml", {**library(), "edits": [passed]})
    assert said("validate", "libs/more.yaml") == {"valid": True, "asked": ["from"]}


def test_an_edit_of_a_library_has_the_name_that_it_has_where_it_is_from() -> None:
    passed = {"use": "recipes.yaml#paste", "with": {"from": {"parameter": "from"}}}
    save("libs/more.yaml", {**library(), "edits": [passed]})
    save("spec.yaml", spec_of({"use": "libs/more.yaml#paste", "with": {"from": 3}}))
    assert [edit["name"] for edit in said("validate", "spec.yaml")["edits"]] == ["paste"]
    save("spec.yaml", spec_of({"use": "libs/more.yaml#None", "with": {"from": 3}}))
    assert problems() == [("E451", "there is no edit None in libs/more.yaml")]


@pytest.mark.parametrize(
    ("spec", "said_of"),
    [
        (spec_of({"use": "libs/recipes.yaml#paste", "with": []}), ["E202"]),
        (spec_of(use(3)) | {"model": None}, ["E202"]),
        (spec_of(use(3)) | {"model": {"family": ["a"], "weights": "a"}}, ["E202"]),
    ],
)
def test_of_an_edit_that_is_not_there_nothing_is_missed(
    spec: dict[str, Any], said_of: list[str]
) -> None:
    save("spec.yaml", spec)
    assert [code for code, _ in problems()] == said_of


def test_the_name_of_a_parameter_is_a_text() -> None:
    save("libs/recipes.yaml", library(rank={"parameter": [1, {"a": "b"}]}))
    save("spec.yaml", spec_of(use(3)))
    assert problems() == [("E202", "expected the name of a parameter, which is a text")]


def test_an_empty_library_is_shown_without_a_line() -> None:
    Path("libs/recipes.yaml").write_text("")
    shown = run("validate", "spec.yaml").stderr
    assert "libs/recipes.yaml: edits[0].use: the spec is empty" in shown
    assert "0 |" not in shown


@pytest.mark.parametrize(
    "address",
    [
        "git+https://user:hunter2@localhost/x//y.yaml@v1#paste",
        "git+https://user:hunter2@localhost/x//y.yaml#paste",
        "git+https://user:hunter2@localhost",
        "git+http://user:hunter2@localhost/x@v1#paste",
        "https://user:hunter2@localhost/x.yaml@v1#paste",
        "git+ssh://user:hunter2@localhost/x@v1#paste",
        "git+https://hunter2@localhost/x@v1#paste",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    save("spec.yaml", spec_of({"use": address, "name": "first"}))
    for refused in (run("validate", "spec.yaml"), run("build", "spec.yaml", "--json", "-o", "out")):
        assert refused.exit_code == 2
        assert "which could be a secret" in refused.stderr + refused.stdout
        assert "hunter2" not in refused.stderr + refused.stdout
    assert not Path("spec.yaml.lock").exists()


def test_git_takes_what_the_lock_pins_until_it_is_updated(
    repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = git(work_of(repository), "rev-parse", "v1")
    source = repository.replace("//sets/recipes.yaml", "") + "@v1"
    said("build", "spec.yaml", "-o", "out", "--provenance")
    (pin,) = lock().sources
    assert (pin.source, pin.commit, list(pin.files)) == (source, first, ["sets/recipes.yaml"])
    assert f'"gitCommit": "{first}"' in Path("out/provenance.json").read_text()
    assert f"{source}//sets/masks/left.png" in lock().edits[0].files

    second = publish(repository, "v1", rank=1)
    # Neither the tag that moved nor the server matters: what is pinned and cached is taken.
    monkeypatch.setenv("EDITSPEC_OFFLINE", "1")
    assert said("validate", "spec.yaml")["lock"] == []
    assert statuses() == ["up to date"]
    assert run("build", "spec.yaml", "-o", "again", "--frozen").exit_code == 0
    offline = run("update", "spec.yaml")
    assert offline.exit_code == 2
    assert "EDITSPEC_OFFLINE" in offline.stderr
    monkeypatch.delenv("EDITSPEC_OFFLINE")

    behind = said("update", "spec.yaml", "--check", code=1)
    expected = {"source": source, "before": first, "after": second}
    assert behind["sources"] == [expected]
    assert lock().sources == [pin]
    assert said("update", "spec.yaml", "first")["moved"]
    assert [each.commit for each in lock().sources] == [second]
    assert said("update", "spec.yaml", "--check")["moved"] is False
    assert said("plan", "spec.yaml")["edits"][0]["because"] == ["rank: 2 -> 1"]
    said("build", "spec.yaml", "-o", "out")
    assert statuses() == ["up to date"]


def test_update_asks_for_the_named_edits_alone_and_begins_a_lock(repository: str) -> None:
    git(work_of(repository), "push", "-q", "origin", "v1:refs/heads/other")
    edits = [use(3, "one", f"{repository}@v1#paste"), use(4, "two", f"{repository}@other#paste")]
    save("spec.yaml", spec_of(*edits))
    old = [each["after"] for each in said("update", "spec.yaml")["sources"]]
    assert lock().edits == []
    assert [each.commit for each in lock().sources] == old
    assert statuses() == ["new", "new"]

    new = publish(repository, "v1", rank=1)
    git(work_of(repository), "push", "-qf", "origin", "HEAD:refs/heads/other")
    said("update", "spec.yaml", "two")
    commits = {each.source.rpartition("@")[2]: each.commit for each in lock().sources}
    assert commits == {"other": new, "v1": old[1]}
    unknown = run("update", "spec.yaml", "too")
    assert unknown.exit_code == 2
    assert 'Did you mean "two"?' in unknown.stderr


def test_an_update_of_one_edit_mends_what_the_lock_made_wrong(repository: str) -> None:
    said("update", "spec.yaml")
    new = {**library()["parameters"], "to": {"type": "integer", "default": 1}}
    work = work_of(repository)
    file = work / "sets" / "recipes.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "parameters": new}))
    git(work, "commit", "-qam", "One more parameter")
    git(work, "tag", "-f", "v1")
    git(work, "push", "-qf", "origin", "v1")
    save("spec.yaml", spec_of(use(3, "first", f"{repository}@v1#paste", to=2)))
    assert [code for code, _ in problems()] == ["E454"]
    assert said("update", "spec.yaml", "first")["moved"]
    assert said("validate", "spec.yaml")["valid"]


def test_a_part_of_a_commit_and_a_folder_are_refused_in_words(repository: str) -> None:
    commit = git(work_of(repository), "rev-parse", "v1")
    for part in (commit[:10], commit.upper()):
        save("spec.yaml", spec_of(use(3, "first", f"{repository}@{part}#paste")))
        assert "all of its digits" in run("validate", "spec.yaml").stderr
    save("spec.yaml", spec_of(use(3, "first", f"{repository}@{commit}#paste")))
    assert run("validate", "spec.yaml").exit_code == 0
    refused = run("update", ".")
    assert refused.exit_code == 2
    assert "directory" in refused.stderr


def test_an_update_to_what_is_wrong_leaves_the_lock(repository: str) -> None:
    said("update", "spec.yaml")
    before = lock()
    publish(repository, "v1", layer="layer99")
    refused = run("update", "spec.yaml")
    assert refused.exit_code == 2
    assert "@v1//sets/recipes.yaml:" in refused.stderr
    assert "there is no layer99 in these weights" in refused.stderr
    assert lock() == before


def test_the_record_of_an_edit_of_git_holds_its_mask(repository: str) -> None:
    work, authors = work_of(repository), {"seed": 1, "sampler": "numpy-legacy"}
    with (work / "sets" / "recipes.yaml").open("a") as file:
        yaml.safe_dump({"latents": authors}, file)
    publish(repository, "v1")
    save("spec.yaml", spec_of(use(3, "first", f"{repository}@v1#paste"), latents=authors))
    said("export", "spec.yaml", "--format", "record", "-o", "record.json")
    latent, picture = json.loads(Path("record.json").read_text())["object"]
    mask = (work / "sets" / "masks" / "left.png").read_bytes()
    assert (latent, picture) == (3, f"data:image/png;base64,{b64encode(mask).decode()}")


def test_a_whole_commit_needs_no_tag(repository: str) -> None:
    commit = git(work_of(repository), "rev-parse", "v1")
    save("spec.yaml", spec_of(use(3, "first", f"{repository}@{commit}#paste")))
    assert [each["after"] for each in said("update", "spec.yaml")["sources"]] == [commit]


def test_what_the_cache_lost_or_holds_in_part_is_fetched_again(
    repository: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said("update", "spec.yaml")
    (tree,) = (own_cache / "recipes").glob("[0-9a-f]*")
    (tree / "files" / "sets" / "masks" / "left.png").write_bytes(b"")
    script = "import editspec; editspec.load('spec.yaml')"
    offline = {**os.environ, "EDITSPEC_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=offline
    )
    assert "is not in the cache" in done.stderr
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0
    assert (tree / "files" / "sets" / "masks" / "left.png").read_bytes()


def test_two_at_once_fetch_the_same(repository: str, own_cache: Path) -> None:
    command = [sys.executable, "-m", "editspec", "validate", "spec.yaml"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    for each in both:
        assert each.stdout is not None
        each.stdout.close()
    assert len(list((own_cache / "recipes").glob("[0-9a-f]*"))) == 1
    assert not list((own_cache / "recipes").glob("*.part"))


def test_a_fetch_that_is_killed_is_done_again(
    repository: str, own_cache: Path, tmp_path: Path
) -> None:
    # A git that waits forever when it is to fetch.
    slow, waiting = tmp_path / "bin", tmp_path / "waiting"
    slow.mkdir()
    program = f"""#!/bin/sh
case "$*" in *" fetch "*) echo $$ > '{waiting}'; exec sleep 600;; esac
exec '{shutil.which("git")}' "$@"
"""
    (slow / "git").write_text(program)
    (slow / "git").chmod(0o755)
    path = f"{slow}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "editspec", "validate", "spec.yaml"]
    process = subprocess.Popen(command, env={**os.environ, "PATH": path})
    for _ in range(6000):
        if waiting.is_file() and waiting.read_text():
            break
        time.sleep(0.1)
    assert list((own_cache / "recipes").glob(".*.part/git/config"))
    process.kill()
    process.wait()
    os.kill(int(waiting.read_text()), signal.SIGKILL)
    said("validate", "spec.yaml")
    assert not list((own_cache / "recipes").glob(".*.part"))


def test_locks_merge_with_their_sources(repository: str) -> None:
    said("update", "spec.yaml")
    base = lock()
    (pin,) = base.sources
    other = pin.model_copy(update={"source": "git+https://localhost/x@v1"})
    moved = pin.model_copy(update={"commit": "0" * 40})

    def of(*pins: Any) -> Lock:
        return base.model_copy(update={"sources": list(pins)})

    both = merge_locks(base, of(pin, other), of(moved)).lock.sources
    assert {each.source: each for each in both} == {pin.source: moved, other.source: other}
    assert merge_locks(base, of(), of(pin)).lock.sources == []
    assert merge_locks(base, of(moved), of(pin)).lock.sources == [moved]
    assert merge_locks(None, of(pin), of(moved)).lock.sources == [pin]


def test_an_unknown_tag_and_file_are_named(repository: str) -> None:
    save("spec.yaml", spec_of(use(3, "first", f"{repository}@v11#paste")))
    ((code, message),) = problems()
    assert code == "E450"
    assert message.endswith("has no tag and no branch v11")
    assert "It has v1" in run("validate", "spec.yaml").stderr
    save("spec.yaml", spec_of(use(3, "first", f"{repository[:-5]}.yml@v1#paste")))
    assert problems()[0][1].startswith("there is no file sets/recipes.yml in git+file:")
    assert "it has sets/recipes.yaml" in run("validate", "spec.yaml").stderr


def test_what_would_change_a_used_edit_says_so_before_the_work() -> None:
    commands = {
        "sweep": ("sweep", "spec.yaml", "-o", "swept", "--ranks", "1,2"),
        "tune": ("tune", "spec.yaml", "-o", "tuned", "--edit", "first"),
    }
    for name, command in commands.items():
        refused = run(*command)
        assert refused.exit_code == 2, name
        assert "is the edit of another spec" in refused.stderr, name


def test_another_edit_is_swept_and_the_winner_names_the_library(folder: Path) -> None:
    edit = library()["edits"][0]
    own = {**edit, "name": "own", "rank": 1, "source": {"latent": 3, "mask": "libs/masks/left.png"}}
    own["context"] = [{"latent": 1, "mask": "libs/masks/left.png"}]
    save("spec.yaml", spec_of(use(3, "first"), own))
    said("sweep", "spec.yaml", "-o", "swept", "--ranks", "1")
    (winner,) = Path("swept").glob("*.yaml")
    text = yaml.safe_load(winner.read_text())
    assert text["edits"][0]["use"] == "../libs/recipes.yaml#paste"
    assert editspec.load(winner).spec.edits[0] == moved_to_parent(editspec.load("spec.yaml"))


def moved_to_parent(loaded: Any) -> Any:
    """The first edit of a spec, whose files are named from a folder below."""
    edit = loaded.spec.edits[0]
    text = edit.model_dump_json(exclude_defaults=True).replace('"libs/', '"../libs/')
    return type(edit).model_validate_json(text)


def test_a_review_shows_what_changed_in_a_library(folder: Path) -> None:
    git(folder, "init", "-q")
    said("build", "spec.yaml", "-o", "out")
    said("card", "out", "--spec", "spec.yaml")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "A spec")
    changed = library()
    changed["parameters"]["rank"]["default"] = 3
    save("libs/recipes.yaml", changed)
    both = ("libs/recipes.yaml", "spec.yaml")
    reviewed = said("ci", "review", *both, "-o", "review", "--base", "HEAD")
    assert [spec["status"] for spec in reviewed["specs"]] == ["passed", "passed"]
    assert "A library, which is valid" in Path("review/summary.md").read_text()
    assert "first: rank: 2 -> 3" in Path("review/summary.md").read_text()
