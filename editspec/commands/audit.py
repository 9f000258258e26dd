"""``editspec audit``: whether patches explain the difference of two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from editspec.engine.differences import ChangedShape, ChangedTensor, compare_weights
from editspec.engine.resources import locate_weights
from editspec.engine.result import DONE, FAILED, CommandResult
from editspec.engine.stacks import choose_by_stack, read_stack
from editspec.engine.tolerances import is_rounding
from editspec_runtime.families.open import read_weights
from editspec_runtime.maths.parallel import unshared_operations
from editspec_runtime.patches.chains import require_chain
from editspec_runtime.patches.patch import apply_stack


@dataclass(frozen=True)
class AuditResult(CommandResult):
    """A verdict on the difference of two checkpoints.

    Attributes
    ----------
    explained
        Whether the base with the patches equals the edited weights bit for bit.
    untouched
        Whether the edited weights are the base itself.
    base, edited
        The digests of the base and of the edited weights.
    patches
        The names of the patches.
    rounding
        Whether they differ from the base with the patches only as two builds of one spec in two
        environments do: within the tolerance of ``verify --spec``, in the parameters and the
        directions of the patches alone.
    unexplained
        Each tensor whose change the patches do not explain. A few singular values mean another
        low-rank edit, and many mean training.
    added, removed
        The tensors that only the edited weights or only the base have.
    """

    explained: bool
    untouched: bool
    base: str
    edited: str
    patches: tuple[str, ...]
    rounding: bool
    unexplained: dict[str, ChangedShape | ChangedTensor]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """The exit code: 1 where neither patches nor rounding explain the difference."""
        return DONE if self.explained or self.rounding else FAILED

    def to_text(self) -> str:
        """The verdict, then each tensor that is left."""
        names = ", ".join(self.patches)
        verdict = "explained" if self.explained else "NOT explained"
        if self.rounding:
            verdict = "explained up to the rounding of another environment"
        by = f" by {names}" if names else ", without patches"
        lines = [f"{self.base[:12]} -> {self.edited[:12]}: {verdict}{by}"]
        if self.untouched:
            lines.append("the edited weights are the base itself")
        lines += [f"+ {name}" for name in self.added]
        lines += [f"- {name}" for name in self.removed]
        lines += [change.to_line(name) for name, change in self.unexplained.items()]
        return "\n".join(lines)


@unshared_operations()
def audit(base: str | Path, edited: str | Path, patches: Sequence[Path | str] = ()) -> AuditResult:
    """Test whether patches explain the difference of two checkpoints.

    Parameters
    ----------
    base, edited
        The weights before and after: ``builtin:skyline``, or the path of a checkpoint.
    patches
        The whole stack that may explain the difference, in order.

    Raises
    ------
    PatchError
        The patches do not start from `base`, or do not follow one another.
    FileError, WeightsError
        A file is missing or damaged.
    """
    stack = read_stack(patches)
    choice = choose_by_stack(stack)
    before = read_weights(locate_weights(str(base), Path()), choice)
    # The edited weights have another digest; the same tensors are meant.
    result = str(stack[-1].metadata["result"]) if stack else None
    choice = replace(choice, digest=result)
    after = read_weights(locate_weights(str(edited), Path()), choice)
    first, second = before.digest(), after.digest()
    require_chain(first, stack)
    explained = apply_stack(before, stack)
    left = compare_weights(explained, after)
    whole = bool(left.changed) and not left.added and not left.removed
    rounding = whole and all(
        is_rounding(before, explained, after, stack, name) for name in left.changed
    )
    return AuditResult(
        explained=left.same,
        untouched=first == second,
        base=first,
        edited=second,
        patches=tuple(patch.name for patch in stack),
        rounding=rounding,
        unexplained=left.changed,
        added=left.added,
        removed=left.removed,
    )
