"""Checks: whether a measured value keeps the bound that a spec sets, as rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from editspec_compiler.schema import Check

PASSED, WARNED, FAILED = "passed", "warned", "failed"

Facts = Mapping[str, Any]
"""Further numbers of a measure, as plain values by name."""

Value = tuple[float | None, str] | tuple[float | None, str, Facts]
"""A measured value (None where there is nothing to measure), a remark on it, and its facts."""


@dataclass(frozen=True)
class CheckRow:
    """One check of one edit.

    Attributes
    ----------
    name, measure
        The name of the check, and the name of its measure.
    edit
        The edit that the check is about; None for all edits together.
    value
        The measured value; None where it cannot be measured or is not finite.
    bound
        The side and the limit, such as ``("at most", 0.02)``.
    severity
        ``error`` or ``warning``.
    status
        ``passed``, ``warned`` or ``failed``.
    detail
        A remark.
    facts
        Further numbers of the measure, such as those of the worst images.
    """

    name: str
    measure: str
    edit: str | None
    value: float | None
    bound: tuple[str, float]
    severity: str
    status: str
    detail: str
    facts: Facts = field(default_factory=dict)


def judge(
    check: Check, edit: str | None, value: float | None, detail: str, facts: Facts | None = None
) -> CheckRow:
    """The row of a measured value. A value that is not finite keeps no bound."""
    side, limit = bound = check.bound()
    if value is not None and not math.isfinite(value):
        value, detail = None, f"the value is {value}"
    if value is None:
        kept = False
    elif side == "at most":
        kept = value <= limit
    else:
        kept = value >= limit
    missed = FAILED if check.severity == "error" else WARNED
    status = PASSED if kept else missed
    name = check.name or check.measure
    return CheckRow(
        name, check.measure, edit, value, bound, check.severity, status, detail, facts or {}
    )


def all_pass(rows: Sequence[CheckRow]) -> bool:
    """Whether no check of severity ``error`` failed."""
    return all(row.status != FAILED for row in rows)
