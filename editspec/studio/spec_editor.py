"""Changes of a spec's text that keep its comments and its order.

An edit of a YAML spec is a block of lines. Edits are moved, removed and switched off as blocks;
inside a block only the edit that is changed is rewritten. An edit that is switched off stays where
it is, as lines of comment that begin with `yaml_blocks.OFF`: a build does not see it, and the
studio can switch it on again.

A function that changes a text raises `SpecError` where the text cannot be read, and `UsageError`
where the change cannot be made in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from editspec.studio.parsed import edits_of, parse_once, show_all_edits
from editspec.studio.yaml_blocks import (
    Change,
    Item,
    SpecBlocks,
    put_field,
    put_value,
    to_flow,
)
from editspec_compiler.document import parse
from editspec_compiler.modalities.image.schema import PLURALS
from editspec_compiler.problems import SpecError, SpecPath
from editspec_compiler.rewrite import Put, RewriteError, rewrite
from editspec_compiler.uses import USE, is_used
from editspec_runtime.errors import UsageError


def change_edit(text: str, file: str, number: int, change: Change) -> str:
    """Return the text with `change` made to edit `number`, which stands in this text."""
    require_own(text, file, number)
    return _change_edit(text, file, number, change)


def require_own(text: str, file: str, number: int) -> None:
    """Raise a `UsageError` where an edit stands in another spec, and is only used here."""
    edit = edits_of(text, file)[number]
    if is_used(edit):
        raise UsageError(
            f"This is the edit of {edit[USE]}, whose values are there.",
            "Choose values of its parameters by with: in the text, or change that file.",
        )


def _change_edit(text: str, file: str, number: int, change: Change) -> str:
    if _is_json(file):
        return _change_json(text, file, lambda edits: change(edits[number]))
    blocks = SpecBlocks.read(text, file)
    return blocks.replace_block(number, blocks.edits[number].change(change)).to_text()


def add_edit(text: str, file: str, item: dict[str, Any]) -> str:
    """Return the text with one more edit at the end."""
    if _is_json(file):
        return _change_json(text, file, lambda edits: edits.append(item))
    return SpecBlocks.read(text, file).append(item).to_text()


def remove_edit(text: str, file: str, number: int) -> str:
    """Return the text without edit `number`."""
    if _is_json(file):
        return _change_json(text, file, lambda edits: edits.pop(number))
    return SpecBlocks.read(text, file).remove(number).to_text()


def move_edit(text: str, file: str, number: int, to: int) -> str:
    """Return the text with edit `number` at place `to`."""
    if _is_json(file):
        return _change_json(text, file, lambda edits: edits.insert(to, edits.pop(number)))
    return SpecBlocks.read(text, file).move(number, to).to_text()


def switch_edit(text: str, file: str, number: int, *, off: bool) -> str:
    """Return the text with edit `number` switched off or on."""
    if _is_json(file):
        raise UsageError(
            "An edit of a JSON spec cannot be switched off: JSON has no comments.",
            "Use a YAML spec.",
        )
    blocks = SpecBlocks.read(text, file)
    return blocks.replace_block(number, replace(blocks.edits[number], off=off)).to_text()


def put_fields(text: str, file: str, number: int, fields: Mapping[str, Any]) -> str:
    """Return the text with keys of edit `number` set to values.

    Keys that are there are rewritten in place, as everywhere in editspec. `change_edit` writes new
    keys, and values that others share by an alias.
    """
    edit = parse_once(show_all_edits(text), file).data["edits"][number]
    if fields.keys() - {"name"}:
        require_own(text, file, number)
    new = {key: value for key, value in fields.items() if key not in edit}
    known = [Put(("edits", 0, key), value) for key, value in fields.items() if key in edit]
    try:
        text = _rewrite_edit(text, file, number, known)
    except (RewriteError, SpecError):
        # An alias: the value stands elsewhere, where a change in place would change others, too.
        new = dict(fields)

    def change(item: Item) -> None:
        for key, value in new.items():
            put_field(item, key, value)

    if not new:
        return text
    return _change_edit(text, file, number, change)


def put_values(text: str, file: str, number: int, fields: Mapping[str, Any]) -> str:
    """Return the text with keys of edit `number` set to values, or removed where they are None.

    They are written as the studio writes new keys. Of a list of mappings, the entries that stay as
    they are keep their lines.
    """

    def change(item: Item) -> None:
        for key, value in fields.items():
            if value is not None:
                put_value(item, key, value)
            elif key in item:
                del item[key]

    return change_edit(text, file, number, change) if fields else text


def put_place(item: Item, role: str, index: int | None, place: dict[str, Any]) -> None:
    """Set the source or the target of an edit, or a place of its context.

    A context gets one more place where `index` is None or beyond its end. Its first place is the
    target, in which the rule held before. A place of the same image keeps whatever else the spec
    says of it.
    """
    context = item.get("context") if role == "context" else None
    known = isinstance(context, list) and index is not None and index < len(context)
    if role == "context" and not known:
        put_field(item, "context", [*(context or _context_of_target(item, place)), place])
        return
    old = item.get(role) if context is None else context[index]
    if isinstance(old, dict) and any(key in old for key in PLURALS):
        raise UsageError("This place is that of several images.", "Change its mask in the text.")
    if isinstance(old, dict) and old.get("latent") == place["latent"]:
        old["mask"] = to_flow(place["mask"])
    elif context is None:
        put_field(item, role, place)
    else:
        context[index] = to_flow(place)


def _context_of_target(item: Item, place: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the context that an edit without one has, unless `place` is the same."""
    target = item.get("target")
    if not isinstance(target, dict) or not {"latent", "mask"} <= set(target):
        return []
    kept = {key: target[key] for key in ("latent", "mask", "intervene") if key in target}
    return [] if kept == place else [kept]


def remove_place(item: Item, role: str, index: int) -> None:
    """Remove the source or the target of an edit, or a place of its context."""
    if role != "context":
        del item[role]
    elif len(item["context"]) == 1:
        del item["context"]
    else:
        del item["context"][index]


def replace_masks(text: str, file: str, names: Mapping[str, str]) -> str:
    """Return the text with data URLs of masks replaced by the file names in `names`.

    Masks are replaced as text: a data URL is long enough to stand for nothing else.
    """
    for url, name in names.items():
        words = json.dumps(name) if _is_json(file) else name
        # The quoted forms come first, so that their quotes go, too.
        for quoted in (json.dumps(url), f"'{url}'", url):
            text = text.replace(quoted, words)
    return text


def _rewrite_edit(text: str, file: str, number: int, puts: Sequence[Put]) -> str:
    """Rewrite values of edit `number`; the paths of `puts` have it as edit 0."""
    if _is_json(file):
        numbered = [replace(put, path=_renumber(put.path, number)) for put in puts]
        return rewrite(text, file, numbered)
    # The block alone: an edit that is off stands as comments in the text.
    blocks = SpecBlocks.read(text, file)
    block = blocks.edits[number]
    alone = rewrite("\n".join(["edits:", *block.lines, ""]), file, puts)
    lines = tuple(alone.split("\n")[1:-1])
    return blocks.replace_block(number, replace(block, lines=lines)).to_text()


def _renumber(path: SpecPath, number: int) -> SpecPath:
    head, _, *rest = path
    return (head, number, *rest)


def _is_json(file: str) -> bool:
    return file.endswith(".json")


def _change_json(text: str, file: str, change: Callable[[list[Any]], object]) -> str:
    parse(text, file)
    data = json.loads(text)
    if not isinstance(data.setdefault("edits", []), list):
        raise UsageError("There is no list under edits to work on.", "Correct it in the JSON.")
    change(data["edits"])
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
