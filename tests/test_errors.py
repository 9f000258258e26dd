"""Every error and problem of the product has a code and a hint that says what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import editspec
import editspec_compiler
import editspec_runtime
from editspec_runtime.codes import Code
from editspec_runtime.errors import EditError

ROOT = Path(__file__).parents[1]
PRODUCT = [ROOT / "editspec", ROOT / "compiler", ROOT / "runtime"]

HINT_PLACES = {"FieldError": 2, "FieldProblem": 2, "Problem": 4, "problem": 2, "error": 2}
"""The place of the hint among the arguments, where it is not the second one."""

PROBLEMS = {"FieldProblem", "Problem", "problem", "error"}
"""The classes of problems of a spec, and the methods that make such problems at a place."""

WITHOUT_HINT = {
    ("compiler/editspec_compiler/validation.py", "problem"): "`_Words.problem` finds the hint.",
}
"""Files and errors that may be raised without a hint, and why."""


def error_classes() -> dict[str, type[EditError]]:
    """Import every module of the product, and return its errors by name."""
    for package in (editspec, editspec_compiler, editspec_runtime):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    found: dict[str, type[EditError]] = {"EditError": EditError}
    waiting = [EditError]
    while waiting:
        for subclass in waiting.pop().__subclasses__():
            if subclass.__module__.startswith("editspec"):
                found[subclass.__name__] = subclass
                waiting.append(subclass)
    return found


def error_calls(tree: ast.AST, names: set[str]) -> Iterator[tuple[ast.Call, str]]:
    """Yield the calls that make an error, with the name of its class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "id", getattr(function, "attr", ""))
            if name in names:
                yield node, name


def has_hint(call: ast.Call, name: str) -> bool:
    """Whether a call that makes an error passes a hint that is not empty."""
    place = HINT_PLACES.get(name, 1)
    given = [keyword.value for keyword in call.keywords if keyword.arg == "hint"]
    given += call.args[place : place + 1]
    if any(isinstance(argument, ast.Starred) for argument in call.args[: place + 1]):
        return True
    return any(not isinstance(hint, ast.Constant) or bool(hint.value) for hint in given)


def without_hint(source: str, names: set[str]) -> list[tuple[int, str]]:
    """The lines of a source that make an error without a hint, with the name of its class."""
    calls = error_calls(ast.parse(source), names)
    return [(call.lineno, name) for call, name in calls if not has_hint(call, name)]


@pytest.mark.parametrize("folder", PRODUCT, ids=lambda folder: folder.name)
def test_every_error_is_raised_with_a_hint(folder: Path) -> None:
    names = {*error_classes(), *PROBLEMS}
    found = []
    for path in folder.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        for line, error in without_hint(path.read_text(), names):
            if (name, error) not in WITHOUT_HINT:
                found.append(f"{name}:{line} {error}")
    assert found == []


def test_exceptions_from_the_rule_are_all_needed() -> None:
    names = {*error_classes(), *PROBLEMS}
    needed = set()
    for name, error in WITHOUT_HINT:
        found = without_hint((ROOT / name).read_text(), names)
        needed |= {(name, error) for _, each in found if each == error}
    assert needed == set(WITHOUT_HINT)


def test_an_error_without_a_hint_is_found() -> None:
    source = """
raise FileError("gone")
raise errors.FileError("gone", "")
raise FileError("gone", hint="")
raise FieldError(("a",), "wrong")
raise FileError("gone", "Fetch it again.")
raise FileError("gone", hint=advice)
raise FieldError(("a",), "wrong", "Leave it out.")
raise ValueError("gone")
failure = FileError("gone")
yield document.problem(("a",), "wrong", code=code)
yield document.problem(("a",), "wrong", "Leave it out.")
"""
    found = without_hint(source, {"FileError", "FieldError", "problem"})
    assert found == [
        (2, "FileError"),
        (3, "FileError"),
        (4, "FileError"),
        (5, "FieldError"),
        (10, "FileError"),
        (11, "problem"),
    ]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = {name: vars(error).get("code") for name, error in error_classes().items()}
    assert [name for name, code in codes.items() if not isinstance(code, Code)] == []
    assert len(set(codes.values())) == len(codes)


def test_an_error_that_has_no_kind_is_not_raised() -> None:
    found = set()
    for folder in PRODUCT:
        for path in folder.rglob("*.py"):
            if list(error_calls(ast.parse(path.read_text()), {"EditError"})):
                found.add(path.relative_to(ROOT).as_posix())
    # The studio raises the failure of a job again, of which it has the words alone; the command
    # line makes an error of an exception that nobody foresaw.
    assert found == {"editspec/studio/engine.py", "editspec/cli/output.py"}


def test_no_two_codes_have_the_same_number_or_name() -> None:
    numbers, names = zip(*(str(code).split(" ") for code in Code), strict=True)
    assert len(set(numbers)) == len(numbers)
    assert len(set(names)) == len(names)
