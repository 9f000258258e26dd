"""Checks: whether a measured value keeps the bound that a spec sets, as rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from editspec_compiler.schema import Check

PASSED, WARNED, FAILED = "passed", "warned", "failed"

Value = tuple[float | None, str]
"""A measured value (None where there is nothing to measure), and a remark on it."""


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
    """

    name: str
    measure: str
    edit: str | None
    value: float | None
    bound: tuple[str, float]
    severity: str
    status: str
    detail: str


def judge(check: Check, edit: str | None, value: float | None, detail: str) -> CheckRow:
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
    return CheckRow(name, check.measure, edit, value, bound, check.severity, status, detail)


def all_pass(rows: Sequence[CheckRow]) -> bool:
    """Whether no check of severity ``error`` failed."""
    return all(row.status != FAILED for row in rows)
