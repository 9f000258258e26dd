"""What a library of others may do: nothing but say what an edit is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

import editspec
from editspec_compiler.spec_folder import ProjectFolder
from editspec_compiler.use_address import AddressError, read_address
from editspec_runtime.errors import FileError
from editspec_runtime.io import git_trees
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.git_trees import Repository
from tests.commands import git

SHAPE = {"box": [3, 2, 11, 12]}


def library(weights: Path, **edit: Any) -> str:
    """A library with one edit."""
    whole = {
        "name": "paste",
        "layer": "layer5",
        "source": {"latent": 3, "mask": SHAPE},
        "target": {"latent": 1, "mask": SHAPE},
        "solver": "least-squares",
        **edit,
    }
    model = {"family": "stylegan2", "weights": str(weights)}
    return yaml.safe_dump({"version": 1, "model": model, "edits": [whole]})


@pytest.fixture
def publish(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """A function that makes a repository of a library and more files; it returns a spec of it."""
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "tiny.safetensors"
    save_file(make_tiny(size=16), weights)
    (tmp_path / "secret.txt").write_text("secret")

    def make(files: dict[str, str], links: dict[str, str] | None = None, **edit: Any) -> str:
        source = tmp_path / "source"
        source.mkdir()
        (source / "recipes.yaml").write_text(library(weights, **edit))
        for name, text in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
        for name, target in (links or {}).items():
            (source / name).symlink_to(target)
        git(source, "init", "-q")
        git(source, "add", "-A")
        git(source, "commit", "-qm", "Recipes")
        spec = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
            "edits": [{"use": f"git+file://{source}@master#paste"}],
        }
        git(source, "branch", "-m", "master")
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return str(tmp_path / "spec.yaml")

    return make


def messages(spec: str) -> list[str]:
    with pytest.raises(editspec.SpecError) as error:
        editspec.load(spec)
    return [problem.message for problem in error.value.problems]


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "a/../../secret.txt"])
@pytest.mark.parametrize("key", ["mask", "pairs", "use"])
def test_a_library_of_git_names_no_file_outside(
    publish: Callable[..., str], name: str, key: str
) -> None:
    edits: dict[str, dict[str, Any]] = {
        "mask": {"source": {"latent": 3, "mask": name}},
        "pairs": {"context": {"file": name}},
        "use": {},
    }
    spec = publish({}, **edits[key])
    if key == "use":
        source = Path(spec).parent / "source"
        inner = {"use": f"{name.removesuffix('.txt')}.yaml#paste", "name": "paste"}
        text = yaml.safe_load((source / "recipes.yaml").read_text())
        (source / "recipes.yaml").write_text(yaml.safe_dump({**text, "edits": [inner]}))
        git(source, "commit", "-qam", "Use another")
    found = messages(spec)
    assert len(found) == 1, found
    assert "repository" in found[0]
    assert "secret" not in found[0].replace(name, "").replace("../secret.yaml", "")


def test_links_and_submodules_are_not_there(publish: Callable[..., str]) -> None:
    spec = publish({}, {"mask.png": "../secret.txt"}, source={"latent": 3, "mask": "mask.png"})
    assert "does not exist" in messages(spec)[0]
    # A negative control: the same file without a link is there, and is not a mask.
    source = Path(spec).parent / "source"
    (source / "mask.png").unlink()
    (source / "mask.png").write_text("secret")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "No link")
    assert "does not exist" not in messages(spec)[0]


def test_a_library_of_git_uses_no_other_source(publish: Callable[..., str]) -> None:
    spec = publish({})
    source = Path(spec).parent / "source"
    text = yaml.safe_load((source / "recipes.yaml").read_text())
    inner = {"use": f"git+file://{source}@master#paste", "name": "paste"}
    (source / "recipes.yaml").write_text(yaml.safe_dump({**text, "edits": [inner]}))
    git(source, "commit", "-qam", "Use another")
    assert messages(spec) == [
        f"a library of git+file://{source}@master uses nothing but its own repository"
    ]


def test_no_program_of_the_repository_or_the_machine_runs(
    publish: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    spec = publish({".gitattributes": "* filter=trap\n", "hooks/post-checkout": "touch trap\n"})
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch '{trap}'\n")
        (hooks / name).chmod(0o755)
    settings = tmp_path / "gitconfig"
    lines = f"[core]\nhooksPath = {hooks}\n[filter \"trap\"]\nsmudge = touch '{trap}'\n"
    settings.write_text(lines)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    # As in a hook of git, whose repository is another one.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert editspec.load(spec).pins
    assert not trap.exists()


def test_an_address_that_is_rewritten_to_a_program_is_not_read(
    publish: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, trap = publish({}), tmp_path / "trap"
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f'[protocol "ext"]\nallow = always\n[url "ext::sh -c touch% {trap} "]\ninsteadOf = file://\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    assert "cannot be read as a repository of git" in messages(spec)[0]
    assert not trap.exists()


@pytest.mark.parametrize(
    "address",
    [
        "git+ext::sh -c touch% trap#x",
        "git+http://localhost/x@v1#x",
        "git+git://localhost/x@v1#x",
        "git+https://localhost/x@--upload-pack=touch#x",
        "git+https://localhost/x@v1..v2#x",
        "git+https://-oProxyCommand=touch/x@v1#x",
        "git+ssh://-oProxyCommand=touch/x@v1#x",
        "git+ssh://user:secret@localhost/x@v1#x",
        "git+ssh://-oProxyCommand@localhost/x@v1#x",
        "git+https://localhost/x?token=secret@v1#x",
        "git+file://localhost/x@v1#x",
        "git+https://localhost/x//../y.yaml@v1#x",
        "git+https://localhost/x//y.txt@v1#x",
        "git+https://localhost/x#x",
        "git+ssh://git@localhost/x#x",
        "git+https://localhost@v1#x",
        "https://localhost/x.yaml#x",
        "git@localhost:x/y.yaml#x",
        "x.yaml",
        "x.txt#x",
        "#x",
        "x.yaml#",
        "x\u202e.yaml#x",
        f"{'x' * 3000}.yaml#x",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(AddressError) as error:
        read_address(address)
    assert error.value.hint


def test_addresses_that_are_some() -> None:
    found = read_address("git+ssh://git@localhost:22/a/b.git//sets/x.yaml@team/v1.2#spires")
    assert found.source is not None
    assert found.source.repository == "ssh://git@localhost:22/a/b.git"
    assert (found.source.revision, found.file, found.edit) == ("team/v1.2", "sets/x.yaml", "spires")
    assert read_address("git+https://localhost/a@v1#spires").file == "recipes.yaml"
    assert read_address("a#b/x.yaml#spires").file == "a#b/x.yaml"


def test_a_name_in_a_tree_leads_to_nothing_outside(tmp_path: Path) -> None:
    folder = ProjectFolder(tmp_path, trees={"git+https://localhost/x@v1": tmp_path / "tree"})
    inside = folder / "git+https://localhost/x@v1//masks/a.png"
    assert inside == tmp_path / "tree" / "masks" / "a.png"
    outside = folder / "git+https://localhost/x@v1//../../secret.txt"
    assert not outside.is_relative_to(tmp_path / "tree")
    assert not outside.exists()


@pytest.mark.parametrize("limit", ["MOST_FILES", "MOST_BYTES"])
def test_a_repository_without_end_is_not_taken(
    publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch, own_cache: Path, limit: str
) -> None:
    spec = publish({"one.txt": "1", "two.txt": "2"})
    monkeypatch.setattr(git_trees, limit, 2)
    assert "has more than" in messages(spec)[0]
    assert all(path.suffix == ".lock" for path in (own_cache / "recipes").iterdir())


@pytest.mark.parametrize("name", [b"a", b"n" * 300])
def test_names_that_cannot_be_files_are_not_blamed_on_the_cache(
    publish: Callable[..., str], name: bytes
) -> None:
    spec = publish({"a/one.txt": "1"})
    source = Path(spec).parent / "source"
    # As git itself writes no such tree.
    parts = [(b"100644", name, "recipes.yaml"), (b"40000", b"a", "a")]
    parts.append((b"100644", b"recipes.yaml", "recipes.yaml"))
    raw = b""
    for mode, called, held in parts:
        number = bytes.fromhex(git(source, "rev-parse", f"HEAD:{held}"))
        raw += mode + b" " + called + b"\0" + number
    (source / "tree").write_bytes(raw)
    tree = git(source, "hash-object", "-t", "tree", "-w", "--literally", "tree")
    commit = git(source, "commit-tree", tree, "-m", "Odd names")
    git(source, "update-ref", "refs/heads/master", commit)
    (found,) = messages(spec)
    assert found.startswith(f"{name.decode()[:100]}"), found
    assert "cannot be a file here" in found


def test_objects_that_git_does_not_give_are_an_error_in_words(
    publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = publish({})
    run_git = git_trees._run_git

    def fail(*arguments: str, **more: Any) -> bytes | None:
        return None if "--batch" in arguments else run_git(*arguments, **more)

    monkeypatch.setattr(git_trees, "_run_git", fail)
    assert "gives no files of commit" in messages(spec)[0]


def test_a_git_that_takes_too_long_is_ended(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nsleep 600\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(git_trees, "PATIENCE", 0.5)
    with pytest.raises(FileError, match="took more than"):
        Repository("https://localhost/x").find_commit("v1")


def test_a_git_that_is_sent_too_much_is_ended(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program in the place of git fills its store, and waits for the end of its server."""
    script = 'for store in "$@"; do case $store in --git-dir=*) break; esac; done\n'
    script += "store=${store#--git-dir=}; mkdir -p $store\n"
    script += 'case "$*" in *" fetch "*) head -c 20000 /dev/zero > $store/pack; sleep 600; esac\n'
    (tmp_path / "git").write_text(f"#!/bin/sh\n{script}")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(git_trees, "MOST_FETCHED", 10_000)
    cache = Cache(tmp_path / "cache")
    with pytest.raises(FileError, match="git was sent more than 10000 bytes"):
        Repository("https://localhost/x").fetch("0" * 40, "v1", cache)
    assert list(cache.root.glob("*/.*.part")) == []


def test_a_cache_that_cannot_be_written_costs_a_warning(
    publish: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = publish({})
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert editspec.load(spec, Cache(tmp_path / "cache")).pins
    assert "cannot be written" in capsys.readouterr().err


def test_values_cannot_grow_without_end(publish: Callable[..., str], tmp_path: Path) -> None:
    """Each library names its parameter twice, and sixteen of them lead to the next."""
    spec = publish({})
    weights = str(tmp_path / "tiny.safetensors")
    for number in range(14):
        twice = [{"parameter": "x"}] * 4
        inner = {"use": f"{number + 1}.yaml#paste", "name": "paste", "with": {"x": twice}}
        text = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": weights},
            "parameters": {"x": {"type": "list"}},
            "edits": [inner],
        }
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(text))
    last = yaml.safe_load(library(Path(weights), context={"parameter": "x"}))
    (tmp_path / "14.yaml").write_text(
        yaml.safe_dump({**last, "parameters": {"x": {"type": "list"}}})
    )
    whole = yaml.safe_load(Path(spec).read_text())
    whole["edits"] = [{"use": "0.yaml#paste", "with": {"x": [1]}}]
    Path(spec).write_text(yaml.safe_dump(whole))
    assert any("more than 1000000 values" in each for each in messages(spec))


def test_values_cannot_be_nested_without_end(publish: Callable[..., str]) -> None:
    spec = publish({})
    whole = yaml.safe_load(Path(spec).read_text())
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    Path("own.yaml").write_text(library(Path("tiny.safetensors"), context=deep))
    whole["edits"] = [{"use": "own.yaml#paste"}]
    Path(spec).write_text(yaml.safe_dump(whole, default_flow_style=True))
    assert "more than 100 levels" in messages(spec)[0]
