"""The documentation holds: its command lines, specs, snippets and links; and it is a site."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import editspec
from editspec.worlds.skyline import WEIGHTS
from editspec_compiler.document import parse
from editspec_compiler.json_schema import json_schema
from editspec_compiler.validation import check
from editspec_runtime.codes import Code
from editspec_runtime.executors.cluster_file import read_cluster_file
from editspec_runtime.executors.cluster_registry import KINDS
from tests.commands import git
from tests.docs_text import PAGES, ROOT, blocks, command_lines, headings, links, mentions
from website.build import PAGES as MADE
from website.commands import walk_commands

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SKYLINE = ROOT / "specs" / "skyline"
COMMANDS = dict(walk_commands())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

UsageError = typer.BadParameter.__base__ or Exception
"""The error of command lines, which typer has under no public name."""

EDIT_FIELDS = {"source", "target", "pairs", "context", "preserve"}

EDIT = {
    "name": "dome-to-spire",
    "layer": "layer8",
    "source": {"latent": 12, "mask": "masks/towers.png"},
    "target": {"latent": 31, "mask": "masks/towers.png"},
}


@pytest.fixture(params=NAMES)
def page(request: pytest.FixtureRequest) -> Path:
    """Each page of the documentation."""
    return ROOT / str(request.param)


def find_command(words: list[str]) -> tuple[str, list[str]]:
    """Divide the words behind ``editspec`` into the name of a command and its arguments."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, words[count:]
    raise LookupError(f"no such command: {' '.join(words[:2])}")


def parse_command(words: list[str]) -> None:
    """Parse a command line as the program does, without running the command."""
    name, arguments = find_command(words)
    with COMMANDS[name].make_context(name, list(arguments)):
        pass


def check_line(words: list[str], folder: Path) -> None:
    """Check one command line, whose files of Python lie in `folder`."""
    while "=" in words[0]:
        words = words[1:]
    program, *rest = words
    if program == "torchrun":
        program, rest = "editspec", rest[rest.index("-m") + 2 :]
    if program == "editspec":
        parse_command(rest)
    elif program.startswith("python") and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), rest[1]
    elif program.startswith("python") and rest[0] == "develop.py":
        assert rest[1] in runpy.run_path(str(ROOT / "develop.py"))["JOBS"]
    elif program.startswith("python"):
        places = [ROOT, folder, *folder.glob("*/")]
        assert any((place / rest[0]).exists() for place in places), rest[0]
    elif program == "pip":
        extras = [each.partition("[")[2].rstrip("]") for each in rest if "[" in each]
        assert set(",".join(extras).split(",")) - {""} <= set(EXTRAS)


def test_command_lines_are_right(page: Path) -> None:
    for words in command_lines(page.read_text()):
        check_line(words, page.parent)


def test_commands_within_sentences_are_right(page: Path) -> None:
    for words in mentions(page.read_text()):
        name, rest = find_command(words[1:])
        known = {each for parameter in COMMANDS[name].params for each in parameter.opts}
        given = {word.strip("[]") for word in rest if word.strip("[").startswith("-")}
        assert given <= known, words


@pytest.mark.parametrize(
    "line",
    [
        "editspec bild spec.yaml -o out",
        "editspec build spec.yaml -o out --chek",
        "editspec build -o out",
        "editspec ci revue spec.yaml -o out",
        "editspec blame spec.yaml -o out --latent one --mask m.png",
    ],
)
def test_a_wrong_command_line_would_be_seen(line: str) -> None:
    (words,) = command_lines(f"So:\n\n    {line}\n")
    with pytest.raises((LookupError, UsageError)):
        check_line(words, ROOT)


@pytest.mark.parametrize(
    "line", ["pip install editspec[stdio]", "python -m benchmarks.nothing", "python gone.py"]
)
def test_a_wrong_line_of_another_program_would_be_seen(line: str) -> None:
    (words,) = command_lines(f"So:\n\n```sh\n{line}\n```\n")
    with pytest.raises((AssertionError, ModuleNotFoundError)):
        check_line(words, ROOT)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as the docs know it: files of Skyline, a checkpoint, two small models of others."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("masks", "pairs"):
        shutil.copytree(SKYLINE / name, folder / name)
    golden = ROOT / "tests" / "golden" / "transformer"
    shutil.copytree(golden / "models" / "llama", folder / "models" / "smollm2")
    shutil.copy(golden / "tokenizer.json", folder / "models" / "smollm2")
    shutil.copytree(ROOT / "tests" / "golden" / "diffusion" / "pipeline", folder / "sd-1-5")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "town.safetensors").symlink_to(WEIGHTS)
    return folder


def complete(part: Any) -> dict[str, Any]:
    """Make a whole spec of a part of one: checks, fields of an edit, or the model."""
    spec = {"version": 1, "model": {"family": "stylegan2", "weights": "builtin:skyline"}}
    if isinstance(part, list):
        part = {"checks": part}
    if set(part) == {"model"}:
        return {**spec, **part}
    if set(part) == {"moved"}:
        return {**spec, "edits": [{**EDIT, "name": part["moved"]["to"]}], **part}
    if set(part) == {"checks"}:
        # Behind the others one more edit, so that there is something to be kept through.
        names = [*{check.get("edit", EDIT["name"]) for check in part["checks"]}, "later"]
        return {**spec, "edits": [{**EDIT, "name": name} for name in names], **part}
    assert set(part) <= EDIT_FIELDS, f"a test should know what this is: {sorted(part)}"
    kept = ("name", "layer") if "pairs" in part else tuple(EDIT)
    return {**spec, "edits": [{**{key: EDIT[key] for key in kept}, **part}]}


def validate_block(block: str, folder: Path) -> None:
    """Validate a block of YAML that is a spec, or a part of one.

    A block that begins with the name of a file is kept there, for those that follow.
    """
    named = re.match(r"# (\S+\.yaml)\n", block)
    path = folder / (named[1] if named else "spec.yaml")
    path.parent.mkdir(exist_ok=True)
    given = yaml.safe_load(block)
    path.write_text(block if "version" in given else json.dumps(complete(given)))
    if list(given) == ["model"]:
        # Weights of others are not here: what is said of them has to fit the language.
        spec, problems = check(parse(path.read_text(), str(path)))
        assert spec is not None
        assert not problems
        return
    try:
        with editspec.allow_code():
            editspec.validate(path)
    except editspec.SpecError as error:
        # The small language model has fewer layers than the one that is shown.
        unknown = {problem.code for problem in error.problems} == {Code.LAYER_UNKNOWN}
        if not ("transformer" in block and unknown):
            raise


def alternatives(block: str) -> list[str]:
    """Divide a block that shows a key of a spec several times, in different forms."""
    if block.startswith("model:"):
        return [part for part in re.split(r"^(?=model:)", block, flags=re.MULTILINE) if part]
    return [block]


def test_specs_are_right(page: Path, project: Path) -> None:
    for block in blocks(page.read_text(), "yaml"):
        if "format: editspec.lock" in block or block.startswith(("repos:", "jobs:")):
            continue  # a lock, shortened, and the configurations of pre-commit and of GitHub
        if block.startswith("kind:"):
            (project / "cluster.yaml").write_text(block)
            read_cluster_file(project / "cluster.yaml", KINDS)
            continue
        for part in alternatives(block):
            validate_block(part, project)


@pytest.mark.parametrize(
    "block",
    [
        "- {measure: efficacy, at_most: 1}",
        "source: {latent: 3, mask: masks/nowhere.png}",
        "model: {family: stylegan2, weight: builtin:skyline}",
        "pairs: {file: pairs/gone.jsonl}",
    ],
)
def test_a_wrong_spec_would_be_seen(block: str, project: Path) -> None:
    with pytest.raises((AssertionError, editspec.SpecError)):
        validate_block(block, project)


def test_the_address_that_is_shown_is_one(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "supply-chain.md").read_text()
    (address,) = re.findall(r"use: (git\+https://\S+)", page)
    library = next(
        block
        for block in blocks((ROOT / "docs" / "language.md").read_text(), "yaml")
        if block.startswith("# libs/towers.yaml")
    )
    repository = tmp_path / "repository"
    shutil.copytree(SKYLINE / "masks", repository / "masks")
    (repository / "towers.yaml").write_text(library.replace("../masks", "masks"))
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Recipes")
    git(repository, "tag", "v3")
    server = address.removeprefix("git+").partition("//towers.yaml")[0]
    settings = f'[url "file://{repository}"]\ninsteadOf = {server}\n'
    (tmp_path / "gitconfig").write_text(settings)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    spec = {"version": 1, "model": {"family": "stylegan2", "weights": "builtin:skyline"}}
    edit = {"use": address, "with": {"from": 12}}
    (project / "spec.yaml").write_text(json.dumps({**spec, "edits": [edit]}))
    assert editspec.validate(project / "spec.yaml").valid


def test_the_hook_that_is_shown_exists() -> None:
    (repos,) = (block["repos"] for block in shown_in_ci() if "repos" in block)
    shown = [hook["id"] for repo in repos for hook in repo["hooks"]]
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert set(shown) <= {hook["id"] for hook in hooks}


def test_the_jobs_that_are_shown_are_those_of_the_workflow_with_more_inputs() -> None:
    (jobs,) = (block["jobs"] for block in shown_in_ci() if "jobs" in block)
    whole = yaml.safe_load((ROOT / "examples" / "ci" / "edits.yml").read_text())["jobs"]
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    assert jobs
    for name, job in jobs.items():
        assert whole[name]["permissions"].items() <= job["permissions"].items()
        for step, ours in zip(job["steps"], whole[name]["steps"], strict=True):
            assert step["uses"] == ours["uses"]
            assert ours["with"].items() <= step["with"].items()
        assert set(job["steps"][-1]["with"]) <= set(inputs)


def shown_in_ci() -> list[dict[str, Any]]:
    """The YAML of docs/ci.md."""
    text = (ROOT / "docs" / "ci.md").read_text()
    return [yaml.safe_load(block) for block in blocks(text, "yaml")]


def test_snippets_name_what_exists(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, name.name) for name in node.names)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "editspec":
                assert node.attr in editspec.__all__


def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in links(page.read_text()):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in headings(target.read_text()), f"{name}#{anchor}"


def test_every_command_is_listed() -> None:
    listed = mentions((ROOT / "docs" / "commands.md").read_text())
    assert {find_command(words[1:])[0] for words in listed} == set(COMMANDS)


def test_the_version_that_is_cited_is_this_one() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == editspec.__version__


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = build_site(tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "griffe" not in built.stdout + built.stderr  # which warns of docstrings
    html = tmp_path / "html"
    for name in MADE:
        assert (html / "reference" / Path(name).stem / "index.html").exists()
    words = (html / "search.json").read_text()
    assert "collateral_weight" in words
    assert "compare_layers" in words
    # The page works without a network.
    assert "fonts.googleapis" not in (html / "index.html").read_text()


def build_site(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site into a folder."""
    command = [sys.executable, "-m", "website.build", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_reference_has_every_option_and_every_key() -> None:
    options = MADE["commands.md"]()
    for name, command in COMMANDS.items():
        section = options.partition(f"### {name}\n")[2].partition("\n##")[0]
        for parameter in command.params:
            shown = parameter.opts[0] if parameter.param_type_name == "option" else None
            assert (shown or parameter.metavar) in section, f"{name}: {parameter.name}"
    keys = MADE["language.md"]()
    schema = json_schema()
    for part in schema["$defs"].values():
        assert all(f"| `{key}` |" in keys for key in part.get("properties", {}))
    # Every link leads to a section of the page, whose title is words.
    titles = re.findall(r"^## (.+?) \{#(.+)\}$", keys, re.MULTILINE)
    assert {anchor for _, anchor in titles} >= set(re.findall(r"\]\(#(.+?)\)", keys))
    assert len({anchor for _, anchor in titles}) == len(titles)
    assert all(re.fullmatch(r"[A-Z][a-z0-9 ]+(: \w+)?", title) for title, _ in titles)


def test_every_page_has_its_place_in_the_site() -> None:
    config = tomllib.loads((ROOT / "website" / "zensical.toml").read_text())
    places = set(pages_of(config["project"]["nav"]))
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= places


def pages_of(nav: Any) -> Iterator[str]:
    """Find the pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from pages_of(list(nav.values()))
    else:
        for each in nav:
            yield from pages_of(each)
