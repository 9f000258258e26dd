"""A method is one entry of the registry, and nothing else knows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError

from editspec_runtime.core.method import RANK, Change, Method, Problem, Settings
from editspec_runtime.methods import registry
from editspec_runtime.methods.layer_problem import solve_each
from editspec_runtime.methods.solve_edit import loss_of, solve_edit
from tests.cases import given


class Damped(Settings):
    """The settings of a method of the tests."""

    share: float = 0.5


@pytest.fixture
def damped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Method]:
    """A method that moves every weight of a layer by a share of itself."""
    module = ModuleType("method_of_the_tests")

    def solve(problem: Problem) -> dict[str, Change]:
        share = problem.settings.share  # type: ignore[attr-defined]
        return solve_each(
            problem,
            lambda each: Change(
                full=problem.model.to_checkpoint(each.rule.layer, -share * each.weight)
            ),
        )

    module.solve = solve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "METHODS", registry.METHODS)
    yield registry.register_method("damped", Damped, module.__name__, takes=(RANK,))
    del registry.METHODS["damped"]


def test_a_new_method_is_one_entry(damped: Method) -> None:
    case = given("stylegan2", "damped", settings={"share": 0.25})
    solution = solve_edit(case.problem)
    (rule,) = solution.rules
    change = solution.changes[rule.parameter].full
    assert change is not None
    assert torch.equal(change, -0.25 * case.model.weights[rule.parameter])
    weights = {**case.model.weights, rule.parameter: case.model.weights[rule.parameter] + change}
    edit = case.edit.with_rules(solution.rules)
    assert loss_of(edit, case.model, weights) != loss_of(edit, case.model, case.model.weights)
    assert "damped" in registry.methods_taking(RANK)
    assert registry.methods_setting("share") == ["damped"]
    assert registry.settings_of({"method": "damped", "share": 0.1}) == damped.make_settings(
        share=0.1
    )


def test_settings_belong_to_their_method(damped: Method) -> None:
    with pytest.raises(ValidationError):
        registry.settings_of({"method": "damped", "steps": 3})
    with pytest.raises(ValidationError):
        damped.settings(method="direct")
    with pytest.raises(KeyError):
        registry.settings_of({"method": "undamped"})


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, editspec_runtime.methods.registry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_entry_has_its_module(name: str) -> None:
    method = registry.METHODS[name]
    assert callable(method.solve)
    if method.has_curve:
        assert callable(method.find_curve)
