"""The solution of an edit, computed or from the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editspec.engine.built import take_stages, time_stage
from editspec.engine.notes import decode_notes, encode_notes
from editspec_runtime.core.method import Problem
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import CompiledEdit, LayerRule
from editspec_runtime.methods.registry import method_of
from editspec_runtime.methods.solve_edit import Solution, resolve_rules, solve_edit
from editspec_runtime.patches.patch import Patch

if TYPE_CHECKING:
    from editspec.engine.session import BuildSession


@dataclass(frozen=True)
class SolvedEdit:
    """A change that solves an edit.

    Attributes
    ----------
    edit
        The edit, whose first rule is resolved.
    change
        The change, without metadata.
    notes
        What the method had to say, as metadata of the change.
    rules
        The rules as they were resolved; None where the change is from the cache.
    """

    edit: CompiledEdit
    change: Patch
    notes: dict[str, Any]
    rules: list[LayerRule] | None

    def find_rules(self, model: Model) -> list[LayerRule]:
        """Resolve the rules on `model`, where that was not done."""
        if self.rules is not None:
            return self.rules
        return resolve_rules(self.edit, model, self.change.to_changes())


def solve_cached(
    session: BuildSession, edit: CompiledEdit, model: Model, seconds: dict[str, float]
) -> SolvedEdit:
    """Solve an edit of a session, or take its solution from the cache.

    The time that it takes is added to `seconds`.
    """
    losses: list[tuple[int, float]] = []
    notes: list[str] = []
    solutions: list[Solution] = []
    with time_stage(seconds, "compile"):
        first = edit.rules[0](model)
    take_stages(seconds, session.spent, "compile")
    # Later rules follow from the first, the edit and the model, so that the first rule and the
    # digest of the edit, which is in its provenance, name the solution.
    edit = replace(edit, rules=[lambda _: first, *edit.rules[1:]])
    key = session.solution_key(edit.with_rules([first]), model)

    def compute() -> dict[str, Tensor]:
        """Solve the edit; the tensors of its change."""
        counted = seconds["statistics"]
        # Code is read when it is first asked for; like other parts of start-up, in no stage.
        method_of(edit.method).load()
        with time_stage(seconds, "solve"):
            solution = solve_edit(
                Problem(
                    model,
                    edit.rules,
                    edit.method,
                    edit.rank,
                    edit.directions,
                    lambda model, layer: session.keys(model, layer, seconds),
                    session.compatibility,
                    earlier=session.earlier,
                    progress=lambda done, total: session.progress(
                        f"solving {edit.name}", done, total
                    ),
                    on_loss=lambda step, loss: losses.append((step, loss)),
                    on_note=notes.append,
                    output_loss=session.output_loss,
                )
            )
            solutions.append(solution)
            change = Patch.of_changes(solution.changes)
            # A GPU works on while Python goes on; copying waits for it, so that the time of
            # the stage is whole.
            tensors = {name: tensor.cpu() for name, tensor in change.tensors().items()}
        # The method asks for statistics in the middle of solving: a stage of their own.
        seconds["solve"] = round(seconds["solve"] - seconds["statistics"] + counted, 4)
        return tensors | encode_notes(notes)

    tensors, _ = session.cache.tensors("solutions", key, compute)
    if losses:
        session.cache.tensors(
            "losses", key, lambda: {"losses": torch.tensor(losses, dtype=torch.float64)}
        )
    solved = [solution.rules for solution in solutions]
    rules = solved[0] if solved else None
    # What is left of the tensors without the notes is the change.
    noted = decode_notes(tensors)
    change = Patch.of(tensors, {})
    # Without its layouts a change of a checkpoint with inputs first would lie across it.
    change = replace(change, metadata={"layouts": session.layouts_of(change, model)})
    return SolvedEdit(edit, change, noted, rules)
