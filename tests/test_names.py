"""The names of families, modalities and methods stand in their own places alone.

Specs, docs and tests are free to name them; a world's experiments are specs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from editspec_compiler.registry import MODALITIES
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.methods.registry import METHODS

ROOT = Path(__file__).parents[1]
PRODUCT = [ROOT / "editspec", ROOT / "compiler", ROOT / "runtime"]
FREE = ("registry.py", "/worlds/", "/methods/", "/families/", "/modalities/")
"""Parts of paths: registries, folders of named things, worlds with their specs."""

COMMON = {"layer", "direct", "torch", "image", "text", "transformer", "diffusion"}
"""Names that are words of their own: of these, only comparisons with a field that holds a name."""

FIELDS = {"method", "family", "modality"}


def named_things() -> set[str]:
    """Every name that is registered when the package is imported."""
    return {*FAMILIES, *MODALITIES, *METHODS}


def docstrings(tree: ast.AST) -> set[int]:
    """The identities of the nodes that are docstrings, or texts that describe a constant."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def names_in(source: str, names: set[str]) -> Iterator[str]:
    """The names that stand in a source: in a text, or compared with a field that holds a name."""
    tree = ast.parse(source)
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in skipped
        ):
            yield from (name for name in names - COMMON if name in node.value)
        if isinstance(node, ast.Compare):
            yield from compared_names(node, names & COMMON)


def compared_names(node: ast.Compare, names: set[str]) -> Iterator[str]:
    """The names that a comparison holds beside a field such as ``.method``."""
    parts = [node.left, *node.comparators]
    fields = {part.attr for part in parts if isinstance(part, ast.Attribute)}
    fields |= {part.id for part in parts if isinstance(part, ast.Name)}
    if fields & FIELDS:
        for part in parts:
            for each in ast.walk(part):
                if isinstance(each, ast.Constant) and each.value in names:
                    yield str(each.value)


@pytest.mark.parametrize("folder", PRODUCT, ids=lambda folder: folder.name)
def test_names_stand_in_their_own_folders_alone(folder: Path) -> None:
    found = {}
    for path in folder.rglob("*.py"):
        if not any(part in path.as_posix() for part in FREE):
            names = sorted(set(names_in(path.read_text(), named_things())))
            if names:
                found[path.relative_to(ROOT).as_posix()] = names
    assert not found


@pytest.mark.parametrize("folder", PRODUCT, ids=lambda folder: folder.name)
def test_a_folder_names_nothing_but_itself(folder: Path) -> None:
    """A family knows no other family, a method no other method, a modality no other modality."""
    found = {}
    for path in folder.rglob("*.py"):
        place = path.relative_to(ROOT).as_posix()
        if "/worlds/" in place or "registry.py" in place:
            continue
        own = {name for name in named_things() if name.replace("-", "_") in place}
        if "/families/" in place:
            own |= set(MODALITIES)  # a family says which modality it belongs to
        others = named_things() - own
        if found_names := sorted(set(names_in(path.read_text(), others))):
            found[place] = found_names
    assert not found


def test_a_name_elsewhere_would_be_seen() -> None:
    names = named_things()
    assert set(names_in('if edit.solver.method == "layer":\n    pass', names)) == {"layer"}
    assert set(names_in('hint = f"write method: least-squares, {x}"', names)) == {"least-squares"}
    assert set(names_in('KINDS = ("stylegan2", 1)', names)) == {"stylegan2"}
    assert not set(names_in('"""Of stylegan2."""\nplace = "layer"', names))
