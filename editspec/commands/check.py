"""Checks: whether what was built does what its spec says that it must, as a gate for continuous
integration.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from editspec.commands.plan import predicted_collateral
from editspec.engine.session import BuildSession, BuiltEdit
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.resolve import ExpectedOutput, asked, images_of
from editspec_compiler.schema import (
    AnyCheck,
    Collateral,
    Efficacy,
    Finite,
    PatchSize,
    PredictedCollateral,
    Retention,
    TargetError,
)
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import begins_with, write
from editspec_runtime.methods.solve import loss_of
from editspec_runtime.patches.patch import apply_stack

PASSED, WARNED, FAILED = "passed", "warned", "failed"

ROUNDING = 1e-6
"""The mean change of a pixel up to which a rule is said to ask for none."""

NOT_MEASURED = "there is nothing to measure: "
NO_WISH = NOT_MEASURED + "inside of the masks the rule asks for no change"


def check(
    spec: Path | str | LoadedSpec,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Measure what the checks of a spec ask for, as plain values.

    Patches are taken from the folder `out` of a build or from the cache; what is in neither is
    solved. Nothing but the cache is written.

    Returns
    -------
    dict
        ``passed``: whether no check of severity ``error`` failed. ``checks``: for every check and
        every edit that it is about its ``name``, ``measure``, ``edit`` (None: all together),
        ``value`` (None where it cannot be measured or is not finite), ``bound`` (such as ``["at
        most", 0.02]``), ``severity``, ``status`` (``passed``, ``warned`` or ``failed``) and
        ``detail``, what else is to be said.

    Raises
    ------
    SpecError, EditError
        As `build` does.
    """
    session = BuildSession.of(spec, device, progress, Path(out) if out is not None else None)
    edits = session.loaded.spec.edits
    checks = session.loaded.spec.checks
    built = [session.edit(number) for number in range(len(edits))] if checks else []
    measuring = _Measuring(session, built)
    rows = []
    for number, each in enumerate(checks):
        progress("checks", number, len(checks))
        rows += [
            _judged(each, edit, *measuring.of(number, edit))
            for edit in session.loaded.spec.checked(each)
        ]
    if checks:
        progress("checks", len(checks), len(checks))
    return {"passed": all(row["status"] != FAILED for row in rows), "checks": rows}


def _judged(given: AnyCheck, edit: str | None, value: float | None, detail: str) -> dict[str, Any]:
    """A row of the answer. What is not a number fulfils no bound."""
    bound = _bound(given)
    if value is not None and not math.isfinite(value):
        value, detail = None, f"the value is {value}"
    side, limit = bound
    fulfilled = value is not None and (value <= limit if side == "at most" else value >= limit)
    status = PASSED if fulfilled else FAILED if given.severity == "error" else WARNED
    return {
        "name": given.name or given.measure,
        "measure": given.measure,
        "edit": edit,
        "value": value,
        "bound": list(bound),
        "severity": given.severity,
        "status": status,
        "detail": detail,
    }


def _bound(given: AnyCheck) -> tuple[str, float]:
    if isinstance(given, Finite):
        return "at most", 0
    return (
        ("at least", given.at_least)
        if isinstance(given, (Efficacy, Retention))
        else ("at most", given.at_most)
    )


@dataclass(frozen=True)
class _Measuring:
    """A stack that is built, and what is measured of it. The methods give a value (or None) and
    what is to be said.
    """

    session: BuildSession
    built: list[BuiltEdit]

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {edit.name: number for number, edit in enumerate(self.session.loaded.spec.edits)}

    def of(self, check: int, edit: str | None) -> tuple[float | None, str]:
        given = self.session.loaded.spec.checks[check]
        if isinstance(given, Collateral):
            return self.collateral(check, edit)
        assert edit is not None
        number = self.numbers[edit]
        if isinstance(given, TargetError):
            return self.loss(number), ""
        if isinstance(given, PredictedCollateral):
            return predicted_collateral(self.built[number].patch), ""
        if isinstance(given, PatchSize):
            return len(self.built[number].patch.to_bytes()), ""
        if isinstance(given, Efficacy):
            return self.efficacy(number, None if given.images is None else check)
        return self.retention(number) if isinstance(given, Retention) else self.finite(number)

    def loss(self, number: int) -> float:
        """The loss of edit `number`, measured anew: a lock can say anything."""
        session = self.session.after(number)
        before, stack = session.generator(), self.session.stack[: number + 1]
        return loss_of(
            session.rule(number, before), before, apply_stack(session.checkpoint.generator, stack)
        )

    def asked(self, number: int, check: int | None = None) -> Iterator[ExpectedOutput]:
        before, loaded = self.session.after(number).generator(), self.session.loaded
        layer = loaded.spec.edits[number].layer
        return asked(
            loaded, number, before, check, lambda: self.session.second_moment(before, layer).matrix
        )

    def share(self, number: int, wishes: Iterable[ExpectedOutput], count: int) -> float | None:
        """The efficacy of edit `number` once `count` edits are applied."""
        model = self.session.after(count).generator()
        return efficacy((each, each.drawn(self.session.loaded, number, model)) for each in wishes)

    def efficacy(self, number: int, check: int | None) -> tuple[float | None, str]:
        share = self.share(number, self.asked(number, check), number + 1)
        return share, NO_WISH if share is None else ""

    def retention(self, number: int) -> tuple[float | None, str]:
        wishes = list(self.asked(number))
        built, left = (self.share(number, wishes, count) for count in (number + 1, len(self.built)))
        if built is None or left is None:
            return None, NO_WISH
        if built == 0:
            return None, NOT_MEASURED + "the edit had no efficacy that it could keep"
        return left / built, f"efficacy {built:.3g}, and {left:.3g} after all edits"

    @torch.no_grad()
    def collateral(self, check: int, edit: str | None) -> tuple[float | None, str]:
        first, last = (
            (0, len(self.built)) if edit is None else (self.numbers[edit], self.numbers[edit] + 1)
        )
        before, after = (self.session.after(count).generator() for count in (first, last))
        change, pixels = 0.0, 0.0
        for latent, counts in images_of(self.session.loaded, check, before):
            moved = (after.images(latent) - before.images(latent)).double().abs().mean(1)[0].cpu()
            change += float((counts * moved).sum())
            pixels += float(counts.sum())
        return (
            (change / pixels, "") if pixels else (None, NOT_MEASURED + "the masks leave no pixel")
        )

    def finite(self, number: int) -> tuple[float | None, str]:
        """How many numbers are not finite: of the patch, else of the pictures of its targets.

        A patch that is not finite draws no pictures, and what is applied is finite, or
        `apply_stack` says so.
        """
        if count := sum(map(_not_finite, self.session.stack[number].tensors().values())):
            return count, f"{count} numbers of the patch are not finite"
        model = self.session.after(number + 1).generator()
        count = sum(
            _not_finite(each.drawn(self.session.loaded, number, model))
            for each in self.asked(number)
        )
        return count, f"{count} numbers of the pictures are not finite" if count else ""


def _not_finite(tensor: Tensor) -> int:
    return int((~tensor.isfinite()).sum())


@torch.no_grad()
def efficacy(pictures: Iterable[tuple[ExpectedOutput, Tensor]]) -> float | None:
    """How much of what a rule asks for comes out, 0 to 1; None where it asks for nothing but
    rounding.

    With x the picture before the edit, x* the picture that the rule asks for, y the picture after
    it, |.| the mean over the colours and a how much of a pixel lies in the place, over all pixels p
    of all pictures:

        sum a_p |x*_p - x_p| [ |y_p - x*_p| < |y_p - x_p| ]  /  sum a_p |x*_p - x_p|

    that is the share of the pixels that end closer to what the rule asks for than to what was
    there, each counted by how much the rule asks it to change.
    """
    reached = whole = pixels = 0.0
    for each, after in pictures:
        x, wanted, y = (picture.double().cpu() for picture in (each.before, each.wanted, after))
        weight = each.area * _distance(wanted, x)
        reached += float((weight * (_distance(y, wanted) < _distance(y, x))).sum())
        whole += float(weight.sum())
        pixels += float(each.area.sum())
    return None if whole <= ROUNDING * pixels else reached / whole


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Between two pictures [1, 3, size, size], pixel by pixel: [size, size]."""
    return (one - other).abs().mean(1)[0]


COLUMNS = ("", "check", "edit", "value", "bound", "severity", "")


def as_text(found: dict[str, Any], width: int = 120, colours: bool = False) -> str:
    """The rows as a table for a terminal."""
    if not found["checks"]:
        return "no checks"
    styles = {PASSED: "green", WARNED: "yellow", FAILED: "red"}
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in found["checks"]:
        table.add_row(f"[{styles[row['status']]}]{row['status']}[/]", *_cells(row))
    page = io.StringIO()
    Console(
        file=page, width=width, force_terminal=colours, no_color=not colours, highlight=False
    ).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def as_markdown(found: dict[str, Any]) -> str:
    """The rows as a table of Markdown."""
    if not found["checks"]:
        return f"{MARKDOWN_MARK}\nThe spec has no checks.\n"
    lines = [MARKDOWN_MARK, "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in found["checks"]:
        status = row["status"] if row["status"] == PASSED else f"**{row['status']}**"
        lines.append("| " + " | ".join((status, *_cells(row))) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield row["name"]
    yield row["edit"] or "all"
    yield "-" if row["value"] is None else _number(row["value"])
    yield f"{row['bound'][0]} {_number(row['bound'][1])}"
    yield row["severity"]
    yield row["detail"]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def as_junit(found: dict[str, Any], spec: Path) -> bytes:
    """The rows as JUnit XML. It knows no warnings: a check that warned is a test that passed and
    says so.
    """
    rows = found["checks"]
    counts: dict[str, Any] = {
        "tests": str(len(rows)),
        "failures": str(sum(row["status"] == FAILED for row in rows)),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", name=JUNIT_NAME, **counts)
    suite = ElementTree.SubElement(root, "testsuite", name=spec.name, **counts)
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=row["edit"] or "all", name=row["name"]
        )
        _, edit, value, bound, _, detail = _cells(row)
        said = f"{row['measure']} of {edit}: {value}, expected {bound}" + (
            f" ({detail})" if detail else ""
        )
        if row["status"] == FAILED:
            ElementTree.SubElement(case, "failure", type=row["measure"], message=said)
        else:
            ElementTree.SubElement(case, "system-out").text = (
                f"warning: {said}" if row["status"] == WARNED else said
            )
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


MARKDOWN_MARK = "<!-- editspec check -->"
JUNIT_NAME = "editspec check"
JUNIT_HEAD = f"<?xml version='1.0' encoding='utf-8'?>\n<testsuites name=\"{JUNIT_NAME}\"".encode()


@dataclass(frozen=True)
class Reports:
    """Where the answer goes beside the terminal.

    Attributes
    ----------
    junit, markdown
        Files, new or of an earlier check; None: not written.
    """

    junit: Path | None = None
    markdown: Path | None = None

    def require_places(self) -> None:
        """Raise a `FileError` where something lies there that no check wrote: before the work, not
        after it.
        """
        for path, mark in ((self.junit, JUNIT_HEAD), (self.markdown, MARKDOWN_MARK.encode())):
            if path is not None and path.exists() and not begins_with(path, mark):
                raise FileError(
                    f"{path} is in the way: editspec did not write it.",
                    "Remove it, or give another name.",
                )

    def write(self, found: dict[str, Any], spec: Path) -> None:
        """Write what was found."""
        if self.junit is not None:
            write(self.junit, as_junit(found, spec))
        if self.markdown is not None:
            write(self.markdown, as_markdown(found).encode())
