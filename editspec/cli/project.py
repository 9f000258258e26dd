"""The defaults of a project, as commands take them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path


@contextmanager
def use_project(threads: int | None, *, computes: bool) -> Iterator[None]:
    """A context in which a command takes the defaults of the project of the working folder.

    Parameters
    ----------
    threads
        The threads that the command line asks for; None where it does not say.
    computes
        Whether the command computes, so that threads matter.
    """
    # Here, as --help needs neither.
    from editspec.engine.project import find_project
    from editspec.engine.project_cache import find_cache
    from editspec_runtime.io.cache import VARIABLE, use_cache

    project, cache = find_project(Path()), None
    if project is not None and VARIABLE not in os.environ:
        cache = find_cache(project)
    if threads is None and project is not None:
        threads = project.threads
    if computes and threads is not None:
        # Here, as commands that compute nothing start without torch.
        import torch

        torch.set_num_threads(threads)
    with nullcontext() if cache is None else use_cache(cache):
        yield
