"""The maker of a network from its code or its exported graph, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.torch_module.exported import read_exported
from editspec_runtime.families.torch_module.fields import LayerPoints, ModuleFields
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.source import Points, Source, run_factory


def make_module(
    weights: Mapping[str, Tensor],
    fields: ModuleFields,
    origin: Origin,
    compatibility: Compatibility,
) -> TorchModule:
    """Make the network of the code that the fields name, or of the file itself.

    Raises `CodeError` where foreign code would have to run and may not, `WeightsError` where the
    weights are not those of the network.
    """
    del compatibility
    return TorchModule(weights, make_source(fields, origin))


def expected_shapes(fields: ModuleFields, origin: Origin) -> dict[str, tuple[int, ...]]:
    """The shapes of the network's tensors by name. Raises as `make_source` does."""
    state = make_source(fields, origin).module.state_dict()
    shapes = {}
    for name, value in state.items():
        if isinstance(value, Tensor):  # a module may keep other things there
            shapes[name] = tuple(value.shape)
    return shapes


def make_source(fields: ModuleFields, origin: Origin) -> Source:
    """Make the network without its weights. Raises as `make_module` does."""
    if fields.module:
        remake = partial(
            run_factory,
            fields.module,
            origin.folder,
            fields.arguments,
            allow_code=origin.allow_code,
        )
    elif origin.weights is not None:
        remake = partial(read_exported, origin.weights)
    else:
        raise WeightsError(
            "These weights come without a network.", "Write model.module in a spec of them."
        )
    module, code = remake()
    points = {}
    for name, given in (fields.layers or {}).items():
        points[name] = _complete_points(given)
    shape = tuple(fields.latent_shape) if fields.latent_shape else None
    return Source(module, code, points, shape, fields.inputs or {}, remake)


def _complete_points(given: LayerPoints) -> Points:
    """Fill in the points that a spec leaves out."""
    edited = given.parameter.rpartition(".")[0] if given.parameter else str(given.key)
    parameter = given.parameter or f"{edited}.weight"
    return Points(given.key or edited, given.value or edited, parameter)
