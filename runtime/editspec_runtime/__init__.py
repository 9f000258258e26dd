"""The runtime of editspec: models, statistics, solvers and patches.

Importing this package (and every module that a ``validate`` needs) imports no torch.
"""

__version__ = "0.1.0"

NUMERICS = 9
"""Raised whenever the same inputs give other bits than before: what the cache keeps from then is
not taken.
"""
