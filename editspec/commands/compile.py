"""``editspec compile``: the rules of a spec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.folder import BuildFolder, patch_names
from editspec.engine.result import CommandResult, describe_layers, describe_rank
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.core.rule import ResolvedEdit
from editspec_runtime.patches.patch import layer_metadata


@dataclass(frozen=True)
class CompileResult(CommandResult):
    """The edits of a spec with their rules resolved, in the order of the spec."""

    edits: tuple[ResolvedEdit, ...]

    def to_dict(self) -> dict[str, Any]:
        """The rules without their tensors."""
        return {"edits": [_edit_entry(edit) for edit in self.edits]}

    def to_text(self) -> str:
        """One line for each rule."""
        lines = []
        for edit in self.edits:
            keys, rank = f"{_context_keys(edit)} context keys", describe_rank(edit.rank)
            line = f"{edit.name}: {describe_layers(edit.layer)}, {keys}, {rank}"
            if nearest := edit.rules[0].details.get("nearest"):
                line += f", copied from {', '.join(map(str, nearest))}"
            lines.append(line)
        return "\n".join(lines)


def compile(
    spec: Path | str | LoadedSpec,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> CompileResult:
    """Resolve every edit of a spec into a rule, and write the rules to `out`/rules.

    Without `out` nothing is written. Each edit is compiled on the model that the edits before
    leave. Their patches are taken from `out` or the cache, or else solved.

    Raises
    ------
    SpecError
        The spec is wrong.
    EditError
        The weights or the numbers are wrong, or foreign files lie at `out`.
    """
    root = Path(out) if out is not None else None
    session = BuildSession.of(spec, device, progress, root)
    folder = None
    if root is not None:
        folder = BuildFolder.prepare(root, patch_names(session.loaded))
    rules: list[ResolvedEdit] = []
    last = len(session.loaded.spec.edits) - 1
    for number in range(last + 1):
        if number == last:
            # Nothing stands on the last edit, so that it need not be solved.
            rule = session.rule(number, session.current_model())
        else:
            rule = session.edit(number).rule
        if folder:
            folder.keep(folder.rule(number), rule.to_bytes())
        rules.append(rule)
    if folder:
        entries = [
            {"name": rule.name, **layer_metadata(rule.layers), "rank": rule.rank} for rule in rules
        ]
        folder.finish(entries, patches=False)
    return CompileResult(tuple(rules))


def _edit_entry(edit: ResolvedEdit) -> dict[str, Any]:
    return {
        "name": edit.name,
        **layer_metadata(edit.layers),
        "rank": edit.rank,
        "context_keys": _context_keys(edit),
        **edit.rules[0].details,
    }


def _context_keys(edit: ResolvedEdit) -> int:
    """The count of the keys of the context, over all rules."""
    return sum(len(each.context_keys) for each in edit.rules)
