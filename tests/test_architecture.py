"""The house rules that a machine can check."""

from __future__ import annotations

import ast
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
LAZY = {
    "compiler/editspec_compiler/__init__.py",  # a name of the package at a time
    "runtime/editspec_runtime/io/files.py",  # containers of torch, for files of torch
}
"""Modules outside of the command line that import modules of ours within functions."""

LINES = 500
"""How long a file may be, but for the schema's and those that are still to be taken apart."""

LONG = {
    "compiler/editspec_compiler/schema.py",
    "runtime/editspec_runtime/families/stylegan2/network.py",
    "runtime/editspec_runtime/families/torch_module/network.py",
}

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


def imports_within_functions(source: str) -> set[str]:
    """The packages of ours that functions of a module import."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found |= {name.split(".")[0] for name in names}
    return found & set(FOLDERS)


def test_functions_import_nothing_of_ours() -> None:
    assert imports_within_functions("def f():\n    import editspec.cli.main")
    assert imports_within_functions("def f():\n    from editspec_compiler import load")
    found = {
        name
        for name, path in modules()
        if imports_within_functions(path.read_text()) and not name.startswith("editspec/cli/")
    }
    assert found == LAZY


def test_imports_are_absolute() -> None:
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, name


def test_files_are_short_and_say_what_they_hold() -> None:
    for name, path in modules():
        assert path.stem not in ("utils", "helpers"), name
        if name not in LONG:
            assert len(path.read_text().splitlines()) <= LINES, name


@pytest.mark.parametrize(
    "call", ["np.random.seed", "np.random.rand", "random.random(", "torch.seed("]
)
def test_no_module_draws_from_global_random_state(call: str) -> None:
    for name, path in modules():
        assert call not in path.read_text().replace("np.random.RandomState", ""), name
