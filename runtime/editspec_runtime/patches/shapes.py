"""The shapes and the kinds of numbers that a patch of others may have."""

from __future__ import annotations

DTYPES = ("BF16", "F16", "F32", "F64")
"""The numbers of a patch, as safetensors calls them."""

LARGEST_CHANGE = 2**27
"""The most numbers that a change of a parameter is written out to where no weights say its size.

In float64 this is 1 GiB. Factors of a few bytes can stand for a change of any size.
"""
