"""The house rules that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "editspec": ROOT / "editspec",
    "editspec_compiler": ROOT / "compiler" / "editspec_compiler",
    "editspec_runtime": ROOT / "runtime" / "editspec_runtime",
}
ALLOWED = {
    "editspec": set(FOLDERS),
    "editspec_compiler": {"editspec_compiler", "editspec_runtime"},
    "editspec_runtime": {"editspec_runtime"},
}


def imported(source: str) -> set[str]:
    """The top-level packages of ours that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found & set(FOLDERS)


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_only_go_down(package: str) -> None:
    modules = list(FOLDERS[package].rglob("*.py"))
    assert modules
    for module in modules:
        assert imported(module.read_text()) <= ALLOWED[package], module
        assert module.stem not in ("utils", "helpers")


def test_an_import_that_goes_up_would_be_seen() -> None:
    assert (
        imported("def f():\n    from editspec_compiler.modalities.image.masks import x")
        - ALLOWED["editspec_runtime"]
    )
    assert imported("import editspec.cli.main") - ALLOWED["editspec_compiler"]


def test_no_module_draws_from_global_random_state() -> None:
    for folder in FOLDERS.values():
        for module in folder.rglob("*.py"):
            text = module.read_text()
            for call in ("np.random.seed", "np.random.rand", "random.random(", "torch.seed("):
                assert call not in text.replace("np.random.RandomState", ""), module
