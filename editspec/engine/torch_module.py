"""A model as a module of torch: parameters by the names of the checkpoint, and a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.model import Model


class ModelModule(torch.nn.Module):
    """A model as a module of torch.

    Its state dict has the names of the checkpoint. What training changes are its parameters, and
    all other tensors are buffers. The tensors are copies, so that training changes this module
    alone. ``module(batch)`` gives what the model gives for a batch: of a generator, images
    [n, channels, height, width] of latents [n, latent_size].

    Parameters
    ----------
    model
        The model. It is not changed.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._names = list(model.weights)
        trained = set(getattr(model, "trainable", list)())
        for name, tensor in model.weights.items():
            owner, _, last = name.rpartition(".")
            place = _make_place(self, owner)
            copy = tensor.detach().clone()
            if name in trained:
                place.register_parameter(last, torch.nn.Parameter(copy))
            else:
                place.register_buffer(last, copy)

    def forward(self, batch: Any) -> Tensor:
        """Compute the outputs of a batch, differentiable in the parameters."""
        tensors = dict(self._tensors())
        model = self._model.with_weights({name: tensors[name] for name in self._names})
        outputs: Tensor = model.outputs(batch)
        return outputs

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters()
        yield from self.named_buffers()


def _make_place(root: torch.nn.Module, path: str) -> torch.nn.Module:
    """The module at a dotted path, with empty modules on the way."""
    place = root
    for part in path.split(".") if path else []:
        if part not in place._modules:
            place.add_module(part, torch.nn.Module())
        place = place.get_submodule(part)
    return place
