"""The function of a user that says in which pictures it recognises something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.errors import FileError, NumericalError
from editspec_runtime.modalities.image.generator import Generator

BATCH = 16
"""The most pictures that the function is given at once."""

RECOGNISED = 0.5
"""The number from which on a picture counts as recognised."""

HINT = (
    "It is given float32 pictures [n, 3, height, width] in -1..1 on the CPU, and returns n numbers "
    "in 0..1, or n truth values."
)


@dataclass(frozen=True)
class Recogniser:
    """A function of foreign code that looks at pictures.

    Attributes
    ----------
    name
        The function as the spec names it.
    function
        It takes float32 pictures [n, 3, height, width] in -1..1 on the CPU, and returns [n] numbers
        in 0..1 or truth values.
    """

    name: str
    function: Callable[[Tensor], Any]

    @torch.no_grad()
    def count(self, generator: Generator, latents: Sequence[Tensor]) -> int:
        """Count the pictures of latents [1, latent_size] that are recognised.

        Raises `FileError` where the function fails, `NumericalError` where it returns something
        else than such numbers.
        """
        found = 0
        for start in range(0, len(latents), BATCH):
            pictures = []
            for latent in latents[start : start + BATCH]:
                # One by one, as other batches give other last bits.
                pictures.append(generator.images(latent).clamp(-1, 1).float().cpu())
            found += int((self.look(torch.cat(pictures)) >= RECOGNISED).sum())
        return found

    def look(self, pictures: Tensor) -> Tensor:
        """Return the numbers that the function gives pictures, [n] float64. Raises as `count`."""
        count = len(pictures)
        try:
            answer = self.function(pictures)
        except Exception as error:  # foreign code may raise anything
            shape = _describe_shape(tuple(pictures.shape))
            # The user's own code failed, and its own words are what the user can act on.
            message = f"{self.name} fails on pictures {shape}: {type(error).__name__}: {error}."
            raise FileError(message, HINT) from error
        numbers = self._read(answer)
        if tuple(numbers.shape) != (count,):
            shape = _describe_shape(tuple(numbers.shape))
            message = (
                f"{self.name} returns numbers {shape} for {count} pictures, expected [{count}]."
            )
            raise NumericalError(message, HINT)
        unknown = int(numbers.isnan().sum())
        if unknown:
            message = f"{self.name} returns NaN for {unknown} of {count} pictures."
            raise NumericalError(message, HINT)
        outside = numbers[(numbers < 0) | (numbers > 1)]
        if len(outside):
            message = f"{self.name} returns {float(outside[0]):.4g}, expected numbers in 0..1."
            hint = "Return probabilities (torch.sigmoid makes them of logits), or truth values."
            raise NumericalError(message, hint)
        return numbers

    def _read(self, answer: Any) -> Tensor:
        """Read what the function returned as numbers of any shape, float64 on the CPU."""
        try:
            numbers = torch.as_tensor(answer)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = "nothing" if answer is None else f"a value of the type {type(answer).__name__}"
            raise NumericalError(f"{self.name} returns {kind}, expected numbers.", HINT) from error
        if numbers.is_complex():
            raise NumericalError(f"{self.name} returns complex numbers.", HINT)
        return numbers.detach().cpu().double()


def _describe_shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
