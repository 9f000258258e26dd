"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "editspec": ROOT / "editspec",
    "editspec_compiler": ROOT / "compiler" / "editspec_compiler",
    "editspec_runtime": ROOT / "runtime" / "editspec_runtime",
}
DEFERRED = {
    # Commands that read no tensors start without torch.
    "runtime/editspec_runtime/io/digests.py": {"torch"},
    "runtime/editspec_runtime/io/files.py": {"safetensors", "torch"},
    "runtime/editspec_runtime/io/weights.py": {"torch"},
    "runtime/editspec_runtime/modalities/image/compatibility.py": {"numpy", "torch"},
    # `validate` of a spec without polygons, and without latents in numbers or files, has no arrays.
    "compiler/editspec_compiler/modalities/image/latents.py": {"numpy"},
    "compiler/editspec_compiler/modalities/image/latent_files.py": {"numpy"},
    "compiler/editspec_compiler/modalities/image/mask_spans.py": {"numpy"},
    # Only weights from elsewhere need them.
    "runtime/editspec_runtime/io/downloads.py": {"filelock", "urllib"},
    "runtime/editspec_runtime/io/git_trees.py": {"filelock"},
}
"""Packages of others that functions outside of the command line import, and why."""

BY_NAME = {
    "runtime/editspec_runtime/core/method.py",  # an entry of the registry of methods
    "editspec/worlds/world.py",  # an entry of the registry of worlds
    "runtime/editspec_runtime/io/foreign_code.py",  # code that a spec names
}
"""Modules besides registries and ``__init__`` that import modules by their names."""

LINES = 500
"""How long a file may be."""

LINT = "import sys; from importlinter.cli import lint_imports_command as c; sys.argv[0] = 'x'; c()"


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the three packages, and its path from the root."""
    for folder in FOLDERS.values():
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path


def check_contracts(config: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the three packages, wherever they are imported from."""
    paths = [str(ROOT), str(ROOT / "compiler"), str(ROOT / "runtime")]
    code = f"import sys; sys.path[:0] = {paths}; {LINT}"
    command = [sys.executable, "-c", code, str(config), "--no-cache"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_imports_keep_their_contracts() -> None:
    result = check_contracts(ROOT / "pyproject.toml")
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


def test_an_import_that_goes_up_would_be_seen(tmp_path: Path) -> None:
    upside_down = (ROOT / "pyproject.toml").read_text()
    floors = '"editspec", "editspec_compiler", "editspec_runtime"]'
    assert upside_down.count(f"layers = [{floors}") == 1
    upside_down = upside_down.replace(
        f"layers = [{floors}", 'layers = ["editspec_runtime", "editspec_compiler", "editspec"]'
    )
    (tmp_path / "pyproject.toml").write_text(upside_down)
    result = check_contracts(tmp_path / "pyproject.toml")
    assert result.returncode == 1
    assert "editspec_compiler is not allowed to import editspec_runtime" in result.stdout


@functools.cache
def nodes_of(source: str) -> list[ast.AST]:
    """All that stands in a module."""
    return list(ast.walk(ast.parse(source)))


@functools.cache
def nodes_within_functions(source: str) -> set[ast.AST]:
    """All that stands in the functions and methods of a module."""
    found: set[ast.AST] = set()
    for function in nodes_of(source):
        named = isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if named and function not in found:
            found.update(ast.walk(function))
    return found


def imports_within_functions(source: str) -> set[str]:
    """The packages that functions of a module import."""
    found = set()
    for node in nodes_within_functions(source):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def imports_by_name(source: str) -> bool:
    """Whether functions of a module import modules whose names are values."""
    called = [node.func for node in nodes_within_functions(source) if isinstance(node, ast.Call)]
    names = {getattr(each, "attr", getattr(each, "id", "")) for each in called}
    return bool(names & {"import_module", "__import__"})


def test_functions_import_in_the_command_line_and_registries_alone() -> None:
    deferred: dict[str, set[str]] = {}
    by_name = set()
    for name, path in modules():
        if name.startswith("editspec/cli/"):
            continue
        source = path.read_text()
        if found := imports_within_functions(source):
            deferred[name] = found
        if imports_by_name(source) and "registry" not in path.stem and path.stem != "__init__":
            by_name.add(name)
    assert deferred == DEFERRED
    assert not set(FOLDERS) & set().union(*deferred.values())
    assert by_name == BY_NAME


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("import editspec.cli.main", "editspec"),
        ("from editspec_compiler import load", "editspec_compiler"),
        ("from torch.nn import Linear as L", "torch"),
    ],
)
def test_an_import_within_a_function_would_be_seen(line: str, package: str) -> None:
    assert imports_within_functions(f"class A:\n  async def f():\n    if a:\n      {line}") == {
        package
    }
    assert not imports_within_functions(f"{line}\nif a:\n    {line}\nclass A:\n    {line}")


@pytest.mark.parametrize(
    "call", ["import_module(n)", "importlib.import_module(n)", "__import__(n)"]
)
def test_an_import_by_name_would_be_seen(call: str) -> None:
    assert imports_by_name(f"def f(n):\n    return {call}.main")
    assert imports_by_name(f"f = lambda n: {call}")
    assert not imports_by_name(f"main = {call}")


def test_imports_are_absolute() -> None:
    for name, path in modules():
        for node in nodes_of(path.read_text()):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, name


def test_files_are_short_and_say_what_they_hold() -> None:
    for name, path in modules():
        assert path.stem not in ("utils", "helpers"), name
        assert len(path.read_text().splitlines()) <= LINES, name


@pytest.mark.parametrize(
    "call", ["np.random.seed", "np.random.rand", "random.random(", "torch.seed("]
)
def test_no_module_draws_from_global_random_state(call: str) -> None:
    for name, path in modules():
        assert call not in path.read_text().replace("np.random.RandomState", ""), name
