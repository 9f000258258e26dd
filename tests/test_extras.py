"""Every extra that a command needs is asked for before the work, with the line that installs it."""

from __future__ import annotations

import ast
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from editspec_runtime.io.extra_registry import EXTRAS, load_extra
from tests.commands import contents, run

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FOR_CONTRIBUTORS = {"docs", "test"}
"""The extras that no command needs."""

SPEC = """
version: 1
model: {family: stylegan2, weights: "hf://someone/something/w.safetensors@main"}
edits:
  - name: e
    layer: layer4
    source: {latent: 0, mask: {box: [0, 0, 32, 32]}}
    target: {latent: 1, mask: {box: [0, 0, 32, 32]}}
"""

FACTS = """
version: 1
model: {family: transformer, weights: llama}
edits:
  - name: e
    layer: layer1
    source: {text: Rome}
    target: {prompt: "{} is in the city of", subject: The Eiffel Tower}
"""

CONCEPTS = """
version: 1
model: {family: diffusion, weights: pipeline}
edits:
  - {name: e, source: {prompt: art}, target: {prompt: van gogh}}
"""

HUB = "hf://someone/something/w.safetensors@main"

USES = [
    ("bench", "cv2", ["bench", "paper", "-o", "out"]),
    ("cluster", "distributed", ["build", "spec.yaml", "-o", "out", "--cluster", "local:2"]),
    ("gguf", "gguf", ["convert", "model.gguf", "made"]),
    ("hub", "huggingface_hub", ["build", "spec.yaml", "-o", "out"]),
    ("hub", "huggingface_hub", ["lock", "spec.yaml"]),
    ("hub", "huggingface_hub", ["plan", "spec.yaml"]),
    ("hub", "huggingface_hub", ["compile", "spec.yaml", "-o", "out"]),
    ("hub", "huggingface_hub", ["statistics", "spec.yaml"]),
    ("hub", "huggingface_hub", ["check", "spec.yaml"]),
    ("hub", "huggingface_hub", ["render", "spec.yaml", "-o", "out.png"]),
    ("hub", "huggingface_hub", ["sweep", "spec.yaml", "-o", "out", "--ranks", "1"]),
    ("hub", "huggingface_hub", ["compare-layers", "spec.yaml"]),
    ("hub", "huggingface_hub", ["search", "spec.yaml"]),
    ("hub", "huggingface_hub", ["inspect", HUB]),
    ("hub", "huggingface_hub", ["convert", HUB, "out.safetensors"]),
    ("hub", "huggingface_hub", ["audit", "--base", HUB, "--edited", HUB]),
    ("s3", "boto3", ["statistics", "spec.yaml"]),
    ("signing", "model_signing", ["sign", "built", "--key", "key.pem"]),
    ("signing", "OpenSSL", ["sign", "built", "--key", "key.pem"]),
    ("signing", "model_signing", ["sign", "built", "--keyless"]),
    (
        "signing",
        "model_signing",
        [
            "verify",
            "built",
            "--model",
            "builtin:skyline",
            "--identity",
            "someone@example.org",
            "--issuer",
            "https://example.org",
        ],
    ),
    (
        "signing",
        "model_signing",
        ["verify", "built", "--model", "builtin:skyline", "--public-key", "key.pem"],
    ),
    ("studio", "fastapi", ["studio", "new.yaml", "--port", "0"]),
    ("studio", "uvicorn", ["studio", "new.yaml", "--port", "0"]),
    ("studio", "ruamel", ["studio", "new.yaml", "--port", "0"]),
    ("diffusion", "tokenizers", ["validate", "concepts.yaml"]),
    ("diffusion", "transformers", ["build", "concepts.yaml", "-o", "out"]),
    ("diffusion", "diffusers", ["render", "concepts.yaml", "-o", "out.png"]),
    ("diffusion", "diffusers", ["build", "concepts.yaml", "-o", "out", "--report"]),
    ("text", "tokenizers", ["validate", "facts.yaml"]),
    ("text", "tokenizers", ["build", "facts.yaml", "-o", "out"]),
]
"""An extra, a package of it that is missing, and a command that needs it."""

OUR_OWN = ("editspec", "editspec_compiler", "editspec_runtime")
OUR_ROOMS = [each.package for each in EXTRAS.values() if each.package.startswith(OUR_OWN)]
CLUSTER = "editspec_runtime.executors.dask_cluster"
"""The module that an extra alone imports, besides those of the studio."""

CORE = {"yaml": "pyyaml", "PIL": "pillow"}
"""The packages whose modules have another name."""


PACKAGES = {each.package.partition(".")[0] for each in EXTRAS.values()} - set(OUR_OWN)
"""The packages of others that the extras begin with."""


@pytest.fixture(autouse=True)
def same_modules() -> Iterator[None]:
    """Forget modules that came while others of their package were hidden, and belong to a copy."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in PACKAGES:
            del sys.modules[name]


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package missing, and forget what was imported with it."""
    # Of our own packages only what needs an extra: the rest keeps its state.
    for name in list(sys.modules):
        inside = any(name.startswith(f"{room}.") for room in OUR_ROOMS)
        if inside or name == CLUSTER or name.partition(".")[0] in {package, *PACKAGES}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(("extra", "package", "command"), USES)
def test_a_missing_extra_is_named_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
    package: str,
    command: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDITSPEC_OFFLINE", raising=False)
    if extra == "s3":
        monkeypatch.setenv("EDITSPEC_REMOTE", "s3://team/edits")
    Path("spec.yaml").write_text(SPEC)
    Path("facts.yaml").write_text(FACTS)
    Path("concepts.yaml").write_text(CONCEPTS)
    shutil.copytree(ROOT / "tests" / "golden" / "diffusion" / "pipeline", "pipeline")
    Path("model.gguf").write_bytes(b"GGUF")
    golden = ROOT / "tests" / "golden" / "transformer"
    shutil.copytree(golden / "models" / "llama", "llama")
    shutil.copy(golden / "tokenizer.json", "llama")
    Path("built/patches").mkdir(parents=True)
    before = contents(tmp_path)
    hide(monkeypatch, package)
    result = run(*command)
    assert result.exit_code == 2, result.stderr
    assert f"pip install 'editspec[{extra}]'" in result.stderr
    assert f"the package {package}" in result.stderr
    # Nothing was built, fetched or kept: not even an empty folder of results.
    assert {name: data for name, data in contents(tmp_path).items() if data} == {
        name: data for name, data in before.items() if data
    }
    assert not Path("out").exists()
    assert not Path("new.yaml").exists()


def test_every_extra_has_an_entry_and_a_use() -> None:
    extras = set(PROJECT["optional-dependencies"]) - FOR_CONTRIBUTORS
    assert set(EXTRAS) == extras
    assert {extra for extra, _, _ in USES} == extras


def packages_of(source: str) -> set[str]:
    """The packages that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_packages_of_extras_are_imported_by_the_registry_alone() -> None:
    named = {each.partition(">")[0].partition(",")[0] for each in PROJECT["dependencies"]}
    known = {*sys.stdlib_module_names, *OUR_OWN}
    found = {}
    for folder in ("editspec", "compiler/editspec_compiler", "runtime/editspec_runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            packages = packages_of(path.read_text()) - known
            foreign = {each for each in packages if CORE.get(each, each) not in named}
            # Modules of extras are imported by `load_extra` alone.
            inside = "studio" in path.relative_to(ROOT).parts or path.stem.startswith("dask_")
            if foreign and not inside:
                found[path.relative_to(ROOT).as_posix()] = foreign
    # What pydantic itself is made of is there with it.
    found = {name: packages - {"pydantic_core"} for name, packages in found.items()}
    assert not {name: packages for name, packages in found.items() if packages}


def test_an_extra_that_is_there_is_loaded() -> None:
    assert load_extra("bench").__name__ == "cv2"
    assert load_extra("studio", "server").__name__ == "editspec.studio.server"
