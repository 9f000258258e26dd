"""The registry of export formats, whose exporters are imported on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from editspec.engine.export_results import AdapterExport, RecordExport, TensorsExport
from editspec_runtime.families.registry import import_part

Exporter = Callable[
    [Sequence[Path | str], Path, str | None], RecordExport | AdapterExport | TensorsExport
]
"""Writes files, given as a spec or as patches in their order, to a path; of a base, if any."""


@dataclass(frozen=True)
class ExportFormat:
    """One format.

    Attributes
    ----------
    place
        ``module:function`` of the exporter.
    of_spec
        Whether it is made of a spec; else of patches.
    of_base
        Whether it needs the base of the patches, too.
    """

    place: str
    of_spec: bool = False
    of_base: bool = False

    @property
    def write(self) -> Exporter:
        """The exporter, whose module is imported only now."""
        exporter: Exporter = import_part(self.place)
        return exporter


EXPORT_FORMATS = {
    "record": ExportFormat("editspec.modalities.image.record_export:export_record", of_spec=True),
    "peft": ExportFormat("editspec.engine.exports:export_peft"),
    "diffusers": ExportFormat("editspec.modalities.text_to_image.adapters:export_diffusers"),
    "kohya": ExportFormat("editspec.modalities.text_to_image.adapters:export_kohya"),
    "delta": ExportFormat("editspec.engine.exports:export_delta"),
    "full": ExportFormat("editspec.engine.exports:export_full", of_base=True),
}
