"""The last stage of the compiler: a checked edit and the model as it stands -> the tensors of a rule.

Copy and paste work as in the paper's interface (section 4): the values under the source's mask are pasted into the
target's value map, centred on the target's mask; the rectangle they cover is the target K* -> V*.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editspec_compiler.references import LoadedSpec
from editspec_compiler.schema import Edit, Place
from editspec_runtime.digest import digest
from editspec_runtime.generator import Box, Generator
from editspec_runtime.latents import LatentStream
from editspec_runtime.rule import Rule, SolverSettings


@dataclass(frozen=True)
class _Resolver:
    """What every edit of a spec shares while it is resolved."""

    loaded: LoadedSpec
    generator: Generator
    number: int

    @property
    def edit(self) -> Edit:
        return self.loaded.spec.edits[self.number]

    def reached(self, place: Place, *path: str | int) -> Any:
        """What reaches the edited layer for the latent of a place, one image alone."""
        latent = self.latent(place, *path).to(self.generator.weight(self.edit.layer))
        return self.generator.prefix(self.edit.layer, latent)

    def latent(self, place: Place, *path: str | int) -> Tensor:
        """The latent of a place, [1, latent_size] float32."""
        given, spec, size = place.latent, self.loaded.spec, self.generator.layout.latent_size
        if isinstance(given, int):
            return LatentStream(spec.latents.seed, size, spec.latents.sampler).items([given])
        return torch.from_numpy(self.loaded.latent_vector(given, ("edits", self.number, *path, "latent"), size))[None]

    def area(self, place: Place, resolution: int, *path: str | int) -> Tensor:
        """The mask of a place at `resolution`, [resolution, resolution] float64 in 0..1, with something in it."""
        where = ("edits", self.number, *path, "mask")
        area = torch.from_numpy(self.loaded.mask_area(place.mask, where, self.generator.layout.image_size, resolution))
        if not bool((area > 0).any()):
            raise self.loaded.error(
                where,
                f"nothing of this mask is left at the resolution of {self.edit.layer}, {resolution}x{resolution}",
                "paint a larger region, or edit a layer of higher resolution",
            )
        return area


@torch.no_grad()
def resolve(loaded: LoadedSpec, number: int, generator: Generator, base: str, parent: str) -> Rule:
    """The rule of edit `number` (from 0) on `generator`, which is the model as the edits before left it.

    Parameters
    ----------
    loaded
        The checked spec.
    number
        Which of its edits.
    generator
        The model with the weights whose digest is `parent`.
    base, parent
        Digests of the weights that the stack starts from, and of those of `generator`.

    Raises
    ------
    SpecError
        A mask vanishes at the layer's resolution, or the rank is above the number of context keys.
    """
    resolver = _Resolver(loaded, generator, number)
    edit, spec = resolver.edit, loaded.spec
    shape = generator.layer(edit.layer)
    region, key, value, arguments = _paste(resolver)
    context_keys, context_weights = _context(resolver)
    if edit.rank > len(context_keys):
        raise loaded.error(
            ("edits", number, "rank"),
            f"rank {edit.rank} is more than the {len(context_keys)} keys that the context has at {edit.layer}",
            f"lower the rank to {len(context_keys)} or less, or give more or larger context",
        )
    precision = getattr(torch, spec.precision)
    return Rule(
        edit=edit.name,
        family=generator.layout.family,
        layer=edit.layer,
        parameter=shape.parameter,
        rank=edit.rank,
        solver=SolverSettings(**{"project_every": None} | edit.solver.model_dump()),
        key=key.to(precision),
        value=value.to(precision),
        arguments={name: tensor.to(precision) for name, tensor in arguments.items()},
        context_keys=context_keys.to(precision),
        context_weights=context_weights.to(precision),
        provenance={
            "base": base,
            "parent": parent,
            "edit": edit_digest(loaded, number),
            "region": [region.top, region.left, region.bottom, region.right],
            "compatibility": spec.compatibility,
        },
    )


def edit_digest(loaded: LoadedSpec, number: int) -> str:
    """The digest of an edit: its normalised text, the settings of the spec that bear on it, the files it names."""
    spec = loaded.spec
    text = {
        "edit": spec.edits[number].model_dump(mode="json"),
        "family": spec.model.family,
        "truncation": spec.model.truncation,
        "class_label": spec.model.class_label,
        "latents": spec.latents.model_dump(mode="json"),
        "statistics": spec.statistics.model_dump(mode="json"),
        "precision": spec.precision,
        "compatibility": spec.compatibility,
    }
    files = {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in loaded.files(number).items()}
    return digest({"text": text, "files": files})


def _paste(resolver: _Resolver) -> tuple[Box, Tensor, Tensor, dict[str, Tensor]]:
    """The region of the key map that the pasted values cover, K* (haloed), V*, and the function's arguments there."""
    edit, generator = resolver.edit, resolver.generator
    shape = generator.layer(edit.layer)
    source = resolver.reached(edit.source, "source")
    source_area = resolver.area(edit.source, shape.value_size, "source")
    copied = _bounds(source_area)
    alpha = source_area[copied.rows(), copied.columns()]
    clip = generator.value(edit.layer, source)[:, :, copied.rows(), copied.columns()]

    target = resolver.reached(edit.target, "target")
    pasted = _centred(copied, _bounds(resolver.area(edit.target, shape.value_size, "target")), shape.value_size)
    value = generator.value(edit.layer, target)
    alpha = alpha.to(value)
    under = value[:, :, pasted.rows(), pasted.columns()]
    value[:, :, pasted.rows(), pasted.columns()] = (1 - alpha) * under + alpha * clip

    region = pasted.aligned(shape.scale)
    covered = region.scaled(shape.scale)
    key, arguments = generator.crop(edit.layer, target, region)
    return region, key, value[:, :, covered.rows(), covered.columns()], arguments


def _context(resolver: _Resolver) -> tuple[Tensor, Tensor]:
    """The keys under the context's masks, [m, in_channels], and the masks' weights there, [m]."""
    edit, generator = resolver.edit, resolver.generator
    named = [(edit.target, ("target",))] if edit.context is None else [
        (place, ("context", index)) for index, place in enumerate(edit.context)
    ]  # fmt: skip
    keys, weights = [], []
    for place, path in named:
        key = resolver.reached(place, *path).key[0]
        area = resolver.area(place, generator.layer(edit.layer).key_size, *path)
        keys.append(key[:, area > 0].T)
        weights.append(area[area > 0].to(key))
    return torch.cat(keys), torch.cat(weights)


def _bounds(area: Tensor) -> Box:
    """The smallest box that holds every position with some area."""
    rows, columns = torch.nonzero(area > 0, as_tuple=True)
    return Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)


def _centred(copied: Box, target: Box, size: int) -> Box:
    """A box of the size of `copied` with the centre of `target`, moved inside a map of `size` positions."""
    height, width = copied.bottom - copied.top, copied.right - copied.left
    top = min(max((target.top + target.bottom) // 2 - height // 2, 0), size - height)
    left = min(max((target.left + target.right) // 2 - width // 2, 0), size - width)
    return Box(top, left, top + height, left + width)
