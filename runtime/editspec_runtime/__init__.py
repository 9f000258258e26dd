"""The runtime of editspec: models, statistics, solvers and patches.

Importing this package (and every module that a ``validate`` needs) imports no torch.
"""

__version__ = "0.1.0"

NUMERICS = 23
"""The version of the numbers.

It is raised whenever equal inputs give other bits than before, so that no result from before is
taken from the cache.
"""
