"""Digests of edits: what the bits of an edit depend on. Imports no torch."""

from __future__ import annotations

import hashlib

from editspec_compiler.loaded_spec import LoadedSpec
from editspec_runtime.io.digests import digest

OTHERS = {"version", "model", "edits", "checks", "pictures", "moved", "parameters"}
"""The keys of a spec that have no effect on an edit, or are hashed in another way."""


def edit_digest(loaded: LoadedSpec, number: int) -> str:
    """Hash an edit: its text with all defaults, shared settings, and its files.

    Parameters
    ----------
    loaded
        The checked spec.
    number
        The edit's number, from 0.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    spec = loaded.spec
    # A query is only searched for. A checked spec holds its defaults, so that writing one out, or
    # a comment, changes no digest.
    text = {
        "edit": spec.edits[number].model_dump(mode="json", exclude={"query"}),
        **spec.model.digest_text(),
        **spec.model_dump(mode="json", exclude=OTHERS),
    }
    files = {}
    for name, path in loaded.files(number).items():
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    if spec.edits[number].protect is None:
        return digest({"text": text, "files": files})
    # What is protected are the places of the edits before.
    protected = [edit_digest(loaded, earlier) for earlier in range(number)]
    return digest({"text": text, "files": files, "protected": protected})
