"""The report of a build, as one HTML file that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from editspec.charts.losses import FRAME, LossChart, draw_losses
from editspec.engine.built import BuiltEdit
from editspec.engine.collateral import predicted_collateral
from editspec.engine.lock import removed_edits
from editspec.engine.modality_registry import WritingModality, engine_of, require_drawing
from editspec.engine.model_session import on_device
from editspec.engine.plan import make_plan
from editspec.engine.session import BuildSession
from editspec.modalities.image.report import Pictures, TracePictures
from editspec.modalities.text.report import TextSection
from editspec_compiler import LoadedSpec
from editspec_runtime import __version__
from editspec_runtime.core.model import Model

PACKAGES = ("editspec", "torch", "numpy", "pillow")
"""The packages whose versions the report lists."""


def require_content(loaded: LoadedSpec) -> None:
    """Raise a `UsageError` where the family of a spec gives nothing to show in a report."""
    family = loaded.spec.model.family
    if not isinstance(engine_of(family), WritingModality):
        require_drawing(family)


@dataclass(frozen=True)
class EditSection:
    """The part of the report that is about one edit.

    Attributes
    ----------
    name, layer, parameters, rank, method, settings
        The fields of the edit; `settings` are the settings of its method, in words.
    loss, residual
        The loss and the residual with the weights that the patch gives.
    collateral, worst
        The predicted collateral by layer, and the largest of it.
    size
        The size of the patch in bytes.
    curve
        The losses over the steps of the method; None where it takes no steps, or where the losses
        are not in the cache.
    matched
        The images in which the key of the context matches best; None where there is no key.
    unseen
        Images of a stream that no edit has seen; None where the model makes texts.
    traces
        What changes where the key of the context does not match; None where that cannot be told.
    texts
        What the model says before and after; None where it makes images.
    digests
        The digests by the names of what they identify.
    """

    name: str
    layer: str
    parameters: list[str]
    rank: int | None
    method: str
    settings: str
    loss: float
    residual: float | None
    collateral: Mapping[str, Any]
    worst: float
    size: int
    curve: LossChart | None
    matched: Pictures | None
    unseen: Pictures | None
    traces: TracePictures | None
    texts: TextSection | None
    digests: dict[str, str | None]


@on_device
def build_report(session: BuildSession, built: Sequence[BuiltEdit]) -> bytes:
    """Make the report of a build that has just been done, as HTML.

    Equal builds from equal states give equal bytes.
    """
    again = session.rewind(built)
    first = again.current_model()
    view = _view_of(session)
    sections, before = [], first
    for number, edit in enumerate(built):
        earlier = again.after(number)
        again.edit(number)
        after = again.current_model()
        shown = view.describe(earlier, number, before, after)
        sections.append(_describe_edit(session, edit, before, shown))
        before = after
    whole = view.compare(first, before) if len(built) > 1 else {}
    content = {
        "version": __version__,
        "name": session.loaded.path.name,
        "facts": view.facts | _list_facts(session, built),
        "edits": sections,
        "plan": list(zip(session.steps, sections, strict=True)),
        "removed": removed_edits(session.loaded, session.lock),
        "conflicts": make_plan(session.rewind(built)).conflicts,
        "whole": whole.get("whole"),
        "completions": whole.get("completions"),
        "chart": FRAME,
        "base": session.base,
        "result": built[-1].patch.metadata["result"],
    }
    text = make_environment().get_template("build.html").render(content)
    return (text.rstrip("\n") + "\n").encode()


def make_environment() -> jinja2.Environment:
    """Make the environment of the templates of pages."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("editspec.views"),
        # Names of layers, masks and specs may be anything, HTML included.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _format_number,
        "bytes": _format_bytes,
        "share": _format_share,
    }
    return environment


def _list_facts(session: BuildSession, built: Sequence[BuiltEdit]) -> dict[str, str]:
    """List the facts of the whole build by their labels."""
    environment = built[-1].locked.environment
    versions = [f"{name} {environment[name]}" for name in PACKAGES]
    return {
        "Precision": session.loaded.spec.precision,
        "Built with": ", ".join(versions),
        "Device": environment["device"],
    }


@dataclass(frozen=True)
class _Shown:
    """What a report shows of an edit besides its numbers; None where its modality has none."""

    matched: Pictures | None = None
    unseen: Pictures | None = None
    traces: TracePictures | None = None
    texts: TextSection | None = None


@dataclass(frozen=True)
class _PictureView:
    """The pictures of a report."""

    pictures: Any

    @property
    def facts(self) -> dict[str, str]:
        """The facts of the model and of its pictures by their labels."""
        found: dict[str, str] = self.pictures.facts
        return found

    def describe(self, earlier: BuildSession, number: int, before: Model, after: Model) -> _Shown:
        """Draw what edit `number` changes; `earlier` is the session before it."""
        del earlier
        return _Shown(
            self.pictures.find_matches(number, before, after),
            self.pictures.compare(before, after),
            self.pictures.find_traces(number, before, after),
        )

    def compare(self, before: Model, after: Model) -> dict[str, Any]:
        """Draw images before the first edit and after the last."""
        return {"whole": self.pictures.compare(before, after)}


@dataclass(frozen=True)
class _TextView:
    """The texts of a report."""

    texts: Any

    @property
    def facts(self) -> dict[str, str]:
        """The facts of the model and of its sample by their labels."""
        found: dict[str, str] = self.texts.facts
        return found

    def describe(self, earlier: BuildSession, number: int, before: Model, after: Model) -> _Shown:
        """Complete prompts of edit `number`; `earlier` is the session before it."""
        return _Shown(texts=self.texts.describe(earlier, number, before, after))

    def compare(self, before: Model, after: Model) -> dict[str, Any]:
        """Complete prompts of all edits before the first edit and after the last."""
        return {"completions": self.texts.compare_all(before, after)}


def _view_of(session: BuildSession) -> _PictureView | _TextView:
    """The view of what the model of a session makes."""
    family = session.loaded.spec.model.family
    engine = engine_of(family)
    if isinstance(engine, WritingModality):
        return _TextView(engine.report_texts(session))
    return _PictureView(require_drawing(family).report_pictures(session))


def _describe_edit(
    session: BuildSession,
    edit: BuiltEdit,
    before: Model,
    shown: _Shown,
) -> EditSection:
    metadata, rule = edit.patch.metadata, edit.rule
    solver = dict(metadata["solver"])
    method = solver.pop("method")
    settings = [f"{name} {json.dumps(value)}" for name, value in solver.items()]
    return EditSection(
        name=rule.name,
        layer=rule.layer,
        parameters=list(edit.patch.parameters),
        rank=metadata["rank"],
        method=method,
        settings=", ".join(settings),
        loss=edit.loss,
        residual=edit.residual,
        collateral=metadata["collateral"],
        worst=predicted_collateral(edit.patch),
        size=len(edit.patch.to_bytes()),
        curve=draw_losses(session.losses(rule, before)),
        matched=shown.matched,
        unseen=shown.unseen,
        traces=shown.traces,
        texts=shown.texts,
        digests={
            "edit": metadata["edit"],
            "weights before": metadata["parent"],
            "rule file": edit.locked.rule,
            "second moment": edit.locked.second_moment,
            "patch": metadata["content"],
            "weights after": metadata["result"],
        },
    )


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _format_share(value: float) -> str:
    return f"{value:.0%}"


def _format_bytes(count: int) -> str:
    return f"{count / 1000:.0f} kB" if count < 10**6 else f"{count / 10**6:.1f} MB"
