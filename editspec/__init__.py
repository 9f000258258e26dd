"""editspec: a declarative edit-spec compiler for generative models.

The functions are the commands of the command line, with the same names and arguments: ``ci review``
is `ci_review`, and ``import``, which is a keyword of Python, is `import_records`. Each returns a
frozen result with `to_dict` and `to_text`. `open` opens a model in Python.

Arguments that several functions take mean the same in all of them, unless a function says more:

spec
    The path of a spec, or a spec that is loaded.
edit
    The name of an edit. Default: the first edit.
out
    A new or empty folder, or the folder of an earlier run of the same command.
family
    The family of weights. Default: found by the names of their tensors.
device
    ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
progress
    A callback ``(task, done, total)`` that is called as the work goes on.

Importing this package imports neither the compiler nor torch. The first use of a function imports
all that the function needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from editspec.commands.registry import COMMANDS, function_name
from editspec.worlds.registry import register_builtins
from editspec_runtime import __version__
from editspec_runtime.errors import EditError

if TYPE_CHECKING:
    from editspec.commands.adopt import adopt
    from editspec.commands.apply import apply
    from editspec.commands.audit import audit
    from editspec.commands.bisect import bisect
    from editspec.commands.blame import blame
    from editspec.commands.build import build
    from editspec.commands.cache import cache
    from editspec.commands.card import card
    from editspec.commands.check import check
    from editspec.commands.ci import ci_apply, ci_review
    from editspec.commands.compare_layers import compare_layers
    from editspec.commands.compile import compile
    from editspec.commands.compose import compose
    from editspec.commands.convert import convert
    from editspec.commands.diff import diff
    from editspec.commands.export import export
    from editspec.commands.families import families
    from editspec.commands.git_locks import git_install, git_merge_lock
    from editspec.commands.git_patches import git_diff_patch, git_show_patch
    from editspec.commands.import_records import import_records
    from editspec.commands.init import init
    from editspec.commands.inspect import inspect
    from editspec.commands.lock import lock
    from editspec.commands.open import open
    from editspec.commands.plan import plan
    from editspec.commands.push import push
    from editspec.commands.rebase import rebase
    from editspec.commands.render import render
    from editspec.commands.sample import sample
    from editspec.commands.schema import schema
    from editspec.commands.search import search
    from editspec.commands.sign import sign
    from editspec.commands.statistics import statistics
    from editspec.commands.sweep import sweep
    from editspec.commands.tune import tune
    from editspec.commands.update import update
    from editspec.commands.validate import validate
    from editspec.commands.verify import verify
    from editspec.engine.resources import allow_code
    from editspec.studio import studio
    from editspec.worlds.atlas.bench.run import bench_facts
    from editspec.worlds.skyline.bench.run import bench_paper
    from editspec.worlds.skyline.captions.bench import bench_concepts
    from editspec_compiler import LoadedSpec, SpecError, load

register_builtins()

__all__ = [
    "EditError",
    "LoadedSpec",
    "SpecError",
    "__version__",
    "adopt",
    "allow_code",
    "apply",
    "audit",
    "bench_concepts",
    "bench_facts",
    "bench_paper",
    "bisect",
    "blame",
    "build",
    "cache",
    "card",
    "check",
    "ci_apply",
    "ci_review",
    "compare_layers",
    "compile",
    "compose",
    "convert",
    "diff",
    "export",
    "families",
    "git_diff_patch",
    "git_install",
    "git_merge_lock",
    "git_show_patch",
    "import_records",
    "init",
    "inspect",
    "load",
    "lock",
    "open",
    "plan",
    "push",
    "rebase",
    "render",
    "sample",
    "schema",
    "search",
    "sign",
    "statistics",
    "studio",
    "sweep",
    "tune",
    "update",
    "validate",
    "verify",
]

# ``module:attribute`` of each name, so that a name is imported when it is first used.
_PLACES = {
    **{function_name(command): place for command, place in COMMANDS.items()},
    "LoadedSpec": "editspec_compiler:LoadedSpec",
    "SpecError": "editspec_compiler:SpecError",
    "allow_code": "editspec.engine.resources:allow_code",
    "load": "editspec_compiler:load",
    "open": "editspec.commands.open:open",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
