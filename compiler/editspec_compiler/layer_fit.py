"""What an edit asks of its layer, and the layer does not have. Imports no torch."""

from __future__ import annotations

from editspec_compiler.layers import suggest_layer
from editspec_compiler.problems import suggest
from editspec_compiler.schema import OUTPUT, ErasedUnits
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.fields import FieldProblem
from editspec_runtime.core.method import DIRECTIONS, LINEAR, MATRIX, Method
from editspec_runtime.methods.registry import METHODS, methods_taking


def unit_problem(erased: ErasedUnits, layer: Layer) -> FieldProblem | None:
    """Say that more units are erased than the key of a layer has; or None."""
    most = layer.in_features
    if erased.units <= most:
        return None
    message = f"{layer.name} has {most} units in its key, and {erased.units} are to be erased"
    return FieldProblem(("units",), message, f"write {most} or less", Code.UNITS_UNFIT)


def rank_problem(rank: int, layer: Layer) -> FieldProblem | None:
    """Say that a rank is above the units that the key of a layer has; or None."""
    most = layer.in_features
    if rank <= most:
        return None
    message = f"rank {rank} is more than the {most} units that the key has at {layer.name}"
    return FieldProblem(("rank",), message, f"lower the rank to {most} or less", Code.RANK_UNFIT)


def observe_problem(observe: str, architecture: Architecture, edited: str) -> FieldProblem | None:
    """Find what is wrong with the observed layer of an edit of `edited`; or None."""
    names = list(architecture.layers)
    if observe not in names:
        message = f"there is no {observe} in these weights"
        hint = suggest_layer(observe, architecture.layers)
        return FieldProblem(("observe",), message, hint, Code.LAYER_UNKNOWN)
    if names.index(observe) < names.index(edited):
        later = ", ".join(names[names.index(edited) :])
        message = f"{observe} comes before {edited}, which is edited: it sees nothing of the change"
        return FieldProblem(("observe",), message, f"one of {later}", Code.OBSERVE_UNFIT)
    layers = architecture.layers
    if observe != edited and layers[observe].parameter == layers[edited].parameter:
        message = (
            f"{observe} is another layer of the weight of {edited}, and does not come after it"
        )
        hint = f"write layer: {observe}, or observe a later layer"
        return FieldProblem(("observe",), message, hint, Code.OBSERVE_UNFIT)
    return None


def refine_problem(
    at: str, architecture: Architecture, edited: str, erases: bool
) -> FieldProblem | None:
    """Find what is wrong with the layer that ``refine`` of an edit pastes at; or None.

    `erases` says whether the edit's value is erased by units of the edited layer.
    """
    if at in (OUTPUT, edited):
        return None
    names = list(architecture.layers)
    later = names[names.index(edited) :]
    path = ("refine", "at")
    if at not in names:
        message = f"there is no {at} in these weights"
        hint = f"{suggest(at, later)}, or {OUTPUT}: the pixels themselves"
        return FieldProblem(path, message, hint, Code.LAYER_UNKNOWN)
    if at not in later:
        message = f"{at} comes before {edited}, which is edited"
        hint = f"one of {', '.join(later)}, or {OUTPUT}: the pixels themselves"
        return FieldProblem(path, message, hint, Code.LAYER_UNKNOWN)
    if erases:
        message = f"units of {edited} are erased, and {at} has units of its own"
        return FieldProblem(path, message, "leave at out", Code.LAYER_UNKNOWN)
    return None


def nonlinear_problem(layer: Layer, method: Method) -> FieldProblem | None:
    """Say that a layer is not linear, or no matrix, as its method needs it; or None."""
    if layer.linear and not (MATRIX in method.needs and layer.has_taps):
        return None
    message = f"{layer.name} is not linear from key to value, and {method.name} needs that"
    if layer.linear:
        message = f"the weight of {layer.name} is a kernel, and {method.name} needs a matrix"
    fitting = [name for name in methods_taking(DIRECTIONS) if LINEAR not in METHODS[name].needs]
    hint = f"write one of these methods: {', '.join(fitting)}"
    return FieldProblem(("solver",), message, hint, Code.LAYER_NOT_LINEAR)
