"""Numbers and arrays of numpy in pickles as data; numpy builds nothing from a foreign record.

A pickle names functions of numpy that take a type of numbers and bytes. For a type of objects,
numpy would take the bytes for addresses. The stand-ins here take plain numbers alone.
"""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PLAIN = re.compile("b1|[iu][1248]|f[248]")
"""The types of plain numbers: kind and bytes."""

AXES = 64
"""The most axes of an array."""

ORDERS = ("<", ">", "=", "|")


@dataclass
class NumberKind:
    """The type of numpy's numbers as data.

    Attributes
    ----------
    code
        Kind and bytes, such as ``f8``.
    order
        The order of the bytes: ``<``, ``>``, ``=`` or ``|``.
    """

    code: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        self.order = require_text(state[1])

    def read(self, data: bytes) -> np.ndarray[Any, Any]:
        """Read the numbers whose bytes are `data`.

        Raises `UnpicklingError` where they are not plain numbers.
        """
        if PLAIN.fullmatch(self.code) is None or self.order not in ORDERS:
            raise pickle.UnpicklingError(
                f"it holds a number of the type {self.order}{self.code}"[:80]
            )
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("it holds numbers without their bytes")
        return np.frombuffer(data, self.order + self.code)


@dataclass
class NumberArray:
    """An array of numpy's as data, which is pickled as an array again.

    Attributes
    ----------
    values
        Its numbers.
    """

    values: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        self.values = shape_numbers(_numbers(kind, data), shape, "F" if is_fortran else "C")

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.values.__reduce__()


def shape_numbers(numbers: np.ndarray[Any, Any], shape: Any, order: str) -> np.ndarray[Any, Any]:
    """Give numbers a shape, in the order ``C`` or ``F`` of their axes.

    Raises `UnpicklingError` where they are not as many as the shape has.
    """
    lengths = tuple(int(length) for length in shape)
    if len(lengths) > AXES or math.prod(lengths) != numbers.size or min(lengths, default=0) < 0:
        raise pickle.UnpicklingError("an array is not as large as what is stored of it")
    return numbers.reshape(lengths, order="F" if order == "F" else "C")


def _numbers(kind: Any, data: Any) -> np.ndarray[Any, Any]:
    if not isinstance(kind, NumberKind):
        raise pickle.UnpicklingError("it holds numbers of no known type")
    return kind.read(data)


def require_text(value: object) -> str:
    """Return a text. Raises `UnpicklingError` for anything else, which may take ages to show."""
    if not isinstance(value, str):
        raise pickle.UnpicklingError("it has something else in the place of a text")
    return value


class NumpyData:
    """The stand-ins for what a pickle names of numpy, for one pickle."""

    # A pickle may set attributes of what it names. Bound methods keep none.

    def table(self) -> dict[str, Any]:
        """The stand-ins by the names in a pickle."""
        named: dict[str, Any] = {
            "numpy.dtype": self._kind,
            "numpy.ndarray": object(),
            "_codecs.encode": self._encode,
            "builtins.bytes": self._no_bytes,
            "__builtin__.bytes": self._no_bytes,
        }
        for package in ("numpy.core", "numpy._core"):
            named[f"{package}.multiarray.scalar"] = self._number
            named[f"{package}.multiarray._reconstruct"] = self._array
            named[f"{package}.numeric._frombuffer"] = self._array_of_bytes
        return named

    def _kind(self, code: Any, *_: Any) -> NumberKind:
        return NumberKind(require_text(code))

    def _number(self, kind: Any, data: Any) -> bool | int | float:
        (number,) = _numbers(kind, data).tolist()
        return number  # type: ignore[no-any-return]

    def _array(self, *_: Any) -> NumberArray:
        # The numbers follow in the pickle, as the state of the array.
        return NumberArray()

    def _array_of_bytes(self, data: Any, kind: Any, shape: Any, order: Any) -> NumberArray:
        return NumberArray(shape_numbers(_numbers(kind, bytes(data)), shape, require_text(order)))

    def _encode(self, text: Any, encoding: Any) -> bytes:
        # Old pickles hold bytes as text.
        if require_text(encoding).lower().replace("-", "") not in ("latin1", "iso88591"):
            raise pickle.UnpicklingError(f"it holds bytes as {encoding!a:.40}, expected latin1")
        return require_text(text).encode("latin1")

    def _no_bytes(self, *given: Any) -> bytes:
        # Old pickles hold no bytes at all as this call, which could ask for any number of them.
        if given:
            raise pickle.UnpicklingError("it asks for bytes that it does not hold")
        return b""
