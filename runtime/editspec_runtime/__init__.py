"""The runtime of editspec: models, statistics, solvers and patches.

Importing this package (and every module that a ``validate`` needs) imports no torch.
"""

__version__ = "0.1.0"
