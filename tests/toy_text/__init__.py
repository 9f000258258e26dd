"""A toy text modality and family, registered from outside: the proof that nothing knows images.

An embedding, two linear layers and a softmax over letters. No file of the product changes for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FAMILY, MODALITY = "toy", "toy-text"


@contextmanager
def registered() -> Iterator[None]:
    """Within this, specs of the family ``toy`` are understood."""
    from editspec.engine.modality_registry import ENGINES, register_engine
    from editspec_compiler.registry import MODALITIES, register_modality
    from editspec_runtime.families.registry import FAMILIES, register_family
    from tests.toy_text.architecture import TOY

    tables: list[dict[str, Any]] = [FAMILIES, MODALITIES, ENGINES]
    before = [dict(table) for table in tables]
    register_family(TOY)
    register_modality(
        MODALITY, "tests.toy_text.language:TextSpec", "tests.toy_text.language:TOY_TEXT"
    )
    register_engine(MODALITY, "tests.toy_text.engine:ENGINE")
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
