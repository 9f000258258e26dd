"""An edit that is tuned: its places on the model before it, and the layers to try."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.engine.trials import with_fields
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.slots import latents_of
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.modalities.image.context import select_keys
from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.schema import ImageEdit, Place, image_spec, list_copies
from editspec_compiler.problems import SpecPath
from editspec_runtime.codes import Code
from editspec_runtime.errors import UsageError
from editspec_runtime.maths.channelwise import is_channelwise
from editspec_runtime.maths.low_rank import kernel_of

LEAST_POSITIONS, MOST_POSITIONS = 8, 64
"""The width of the key maps of layers that are tried: places are lost in smaller ones."""

FEWEST_POSITIONS = 4
"""The least width of the key maps of layers that are tried where they are named."""

MOST_UNKNOWNS = 4700
"""The numbers of a change for each output channel, up to which a whole change is found."""

PlaceAt = tuple[Place, SpecPath]
"""A place, and its path below the edit."""


class TunedEdit:
    """An edit on images, on the model before it.

    Parameters
    ----------
    session, number
        The session with the edits before on its stack, and the edit's number, from 0.

    Raises
    ------
    SpecError
        The edit has no images that could be looked for.
    """

    def __init__(self, session: BuildSession, number: int) -> None:
        self.session, self.number = session, number
        self.generator = generator_of(session)
        self.edit: ImageEdit = image_spec(session.loaded.spec).edits[number]
        self._require_copy()

    def resolver(self, layer: str) -> Resolver:
        """The resolver of the edit at a layer."""
        return Resolver(self.at_layer(layer), self.generator, self.number)

    def at_layer(self, layer: str, **fields: Any) -> LoadedSpec:
        """The spec with the edit at a layer, and with other fields."""
        given = {"layer": layer, "observe": None, **fields}
        return with_fields(self.session.loaded, self.number, given)

    def places(self) -> list[PlaceAt]:
        """The places of the context, and the targets, in which the rule is to hold as well."""
        places: list[PlaceAt] = []
        for pair, path in self.resolver(self.edit.layer).sides():
            places.append((pair.target, (*path, "target")))
        for index, place in enumerate(self.edit.context or ()):
            places.append((place, ("context", index)))
        return places

    def sources(self) -> list[PlaceAt]:
        """The places that are copied from."""
        places: list[PlaceAt] = []
        for pair, path in self.resolver(self.edit.layer).sides():
            for copied, below in list_copies(pair.source):
                mask = copied.mask or pair.target.mask
                for latent in latents_of(copied):
                    places.append((Place(latent=latent, mask=mask), (*path, *below)))
        return places

    def select(self, layer: str, places: Sequence[PlaceAt]) -> tuple[Tensor, Tensor]:
        """Select the keys of a layer under places, and how much each counts."""
        loaded = self.at_layer(layer)
        found = [
            select_keys(loaded, self.number, self.generator, place, *path) for place, path in places
        ]
        keys, weights = zip(*found, strict=True)
        return torch.cat(keys).cpu(), torch.cat(weights).cpu()

    def unused_numbers(self, count: int, others: Collection[int] = ()) -> list[int]:
        """The first numbers of the stream that neither the edit itself names nor `others`."""
        named = [place.latent for place, _ in self.places()]
        for pair in self.edit.sides:
            for copied, _ in list_copies(pair.source):
                named += latents_of(copied)
        used = {latent for latent in named if isinstance(latent, int)} | {*others}
        return [number for number in range(count + len(used)) if number not in used][:count]

    def find_layers(self, least: int) -> list[str]:
        """The layers that can be tried, whose maps have from `least` to `MOST_POSITIONS` a side."""
        found = []
        for name, layer in self.generator.architecture.layers.items():
            if layer.row or not least <= layer.key_size <= MOST_POSITIONS:
                continue
            if is_channelwise(self.generator.function(name)):
                found.append(name)
        return found

    def is_large(self, layer: str) -> bool:
        """Whether the whole change of a layer is too large to be found at once."""
        kernel = kernel_of(self.generator.weight(layer))
        return kernel.shape[1] * kernel.shape[2:].numel() > MOST_UNKNOWNS

    def choose_layers(self, given: Sequence[str]) -> list[str]:
        """The layers to try: those that are given, which have to fit, or all with places."""
        usual, fitting = self.find_layers(LEAST_POSITIONS), self.find_layers(FEWEST_POSITIONS)
        if not given and not usual:
            raise self.error(
                ("layer",),
                "no layer of this model is of a kind and size that tune can try",
                "vary layer and rank by editspec sweep",
            )
        unfit = [name for name in given if name not in fitting]
        if unfit:
            raise UsageError(
                f"tune does not try {' and '.join(unfit)} of this model.",
                f"Give some of these: {', '.join(fitting)}.",
            )
        return [name for name in fitting if name in given] or usual

    def telling_layers(self, tried: Sequence[str]) -> list[str]:
        """The layers whose keys may tell images: the usual ones, whichever are tried."""
        usual = self.find_layers(LEAST_POSITIONS)
        return [name for name in self.find_layers(FEWEST_POSITIONS) if name in {*usual, *tried}]

    def _require_copy(self) -> None:
        """Raise a `SpecError` where the edit has no images that could be looked for."""
        for pair, path in Resolver(self.session.loaded, self.generator, self.number).sides():
            if self.edit.erases:
                raise self.error(
                    (*path, "source"),
                    "tune looks for images that show what the source shows, and an erased value "
                    "is shown by none",
                    "write a source: {latent: N, mask: ...}, or vary the edit by editspec sweep",
                )
            scenes: list[tuple[Any, SpecPath]] = [*list_copies(pair.source)]
            scenes.append((pair.target, ("target",)))
            for scene, below in scenes:
                if getattr(scene, "intervene", None) is not None:
                    raise self.error(
                        (*path, *below, "intervene"),
                        "tune looks for images like this one, and none is under an intervention",
                        "vary the edit by editspec sweep",
                    )

    def require_wish(self) -> None:
        """Raise a `SpecError` where the edit asks for no change, so that all trials are alike."""
        rule = self.session.rule(self.number, self.generator)
        details = rule.rules[0].details
        if len(details.get("idle", ())) == details.get("pairs"):
            raise self.error(
                ("source",) if self.edit.pairs is None else ("pairs",),
                "nothing is asked for: what is copied is there already",
                "copy from another image",
            )

    def error(self, path: SpecPath, message: str, hint: str = "") -> SpecError:
        """The error of something at a path below the edit."""
        where = ("edits", self.number, *path)
        return self.session.loaded.error(where, message, hint, Code.METHOD_NEEDS)
