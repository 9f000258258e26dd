"""Generated worlds in which the perfect edit is known; each ships weights under a ``builtin:`` name."""

from editspec.worlds import skyline
from editspec_runtime.io.builtins import register_builtin

WORLDS = {"skyline": skyline.WEIGHTS}


def register_worlds() -> None:
    """Register the weights of every world that ships with the package."""
    for name, weights in WORLDS.items():
        register_builtin(name, weights)
