"""Edits that have another name than when they were built: their files under the new one."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from editspec.engine.lock import LockedEdit
from editspec_compiler import LoadedSpec
from editspec_compiler.digests import edit_digest
from editspec_runtime.core.rule import ResolvedEdit
from editspec_runtime.patches.patch import Patch, content_digest


def rename_built(
    loaded: LoadedSpec, number: int, rule: ResolvedEdit, patch: Patch, locked: LockedEdit
) -> tuple[ResolvedEdit, Patch, LockedEdit]:
    """Write the present names into what was built of edit `number` under former ones.

    Nothing but the name and the digest of the edit has them, so that the files are those that a new
    build would give.
    """
    named = {"name": loaded.spec.edits[number].name, "edit": edit_digest(loaded, number)}
    provenance = {**rule.provenance, "edit": named["edit"]}
    rule = replace(rule, name=named["name"], provenance=provenance)
    unsigned = replace(patch, metadata={**patch.metadata, **named})
    content = content_digest(unsigned)
    patch = replace(unsigned, metadata={**unsigned.metadata, "content": content})
    digests = {"rule": hashlib.sha256(rule.to_bytes()).hexdigest(), "patch": content}
    return rule, patch, locked.model_copy(update={**named, **digests})
