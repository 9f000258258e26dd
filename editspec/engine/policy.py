"""The policy of a project: what its specs have to keep. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from editspec.engine.project import Policy, Project, find_project
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.schema import PredictedCollateral
from editspec_runtime.codes import Code

POLICY_CHECK = "policy"
"""The name of the check that a policy adds to a spec."""


def load_obeying(spec: Path | str | LoadedSpec) -> LoadedSpec:
    """Load a spec that obeys the policy of its project.

    The largest collateral becomes a check of the spec.

    Raises
    ------
    SpecError
        The spec is wrong, or breaks the policy.
    ProjectError
        The file of the project is wrong.
    """
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    project = find_project(loaded.path.parent)
    if project is None:
        return loaded
    problems = list(policy_problems(loaded, project))
    if problems:
        raise SpecError(loaded.document.file, problems, loaded.document.text)
    return _add_check(loaded, project.policy)


def policy_problems(loaded: LoadedSpec, project: Project) -> Iterator[Problem]:
    """Find what in a spec breaks the policy of its project."""
    model, policy = loaded.spec.model, project.policy

    def problem(path: SpecPath, message: str, hint: str) -> Problem:
        return loaded.document.problem(path, message, hint, code=Code.POLICY)

    if policy.weights is not None and not _are_allowed(model, policy.weights):
        allowed = ", ".join(policy.weights) or "none"
        yield problem(
            ("model", "weights"),
            f"the project does not allow {model.weights}",
            f"{project.file} allows: {allowed}; a digest is that of model.digest",
        )
    strict = {check.measure for check in loaded.spec.checks if check.severity == "error"}
    for measure in policy.required_checks:
        if measure not in strict:
            yield problem(
                ("checks",),
                f"the project asks for a check of {measure}, of severity error",
                f"add one under checks:, or change required_checks in {project.file}",
            )


def _are_allowed(model: Any, allowed: tuple[str, ...]) -> bool:
    if model.digest in allowed:
        return True
    return any(fnmatchcase(model.weights, pattern) for pattern in allowed)


def _add_check(loaded: LoadedSpec, policy: Policy) -> LoadedSpec:
    """Add the largest collateral of a policy to the checks of a spec with edits."""
    limit, spec = policy.largest_collateral, loaded.spec
    if limit is None or not spec.edits:
        return loaded
    added = PredictedCollateral(name=POLICY_CHECK, measure="predicted-collateral", at_most=limit)
    return replace(loaded, spec=spec.model_copy(update={"checks": [*spec.checks, added]}))
