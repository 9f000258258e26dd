"""The environment names what bits depend on, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from editspec_runtime.maths.environment import VARIABLES

SCRIPT = """
import json, torch
from editspec_runtime.maths.environment import machine_environment
print(json.dumps(machine_environment(torch.device("cpu"))))
"""


def environment_under(**variables: str) -> dict[str, str]:
    """The environment of a process with these environment variables."""
    # The machine that runs the tests may set some itself.
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=own | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    return environment_under()


SETTINGS = {
    "MKL_CBWR": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2",
}


def test_settings_of_the_libraries_are_named(usual: dict[str, str]) -> None:
    other = environment_under(**SETTINGS)
    assert {name for name in usual if usual[name] != other[name]} == {"settings"}
    named = {f"{variable}={value}" for variable, value in SETTINGS.items()}
    assert named <= set(other["settings"].split())


def test_the_instructions_that_torch_may_use_are_named(usual: dict[str, str]) -> None:
    other = environment_under(ATEN_CPU_CAPABILITY="default")
    assert {name for name in usual if usual[name] != other[name]} == {"device"}


def test_what_bits_do_not_depend_on_is_not_named(usual: dict[str, str]) -> None:
    others = {"MKL_CBWR": "", "LANG": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "HOME": "/nowhere"}
    assert environment_under(**others) == usual


def test_libraries_and_versions_are_named(usual: dict[str, str]) -> None:
    assert {"editspec", "torch", "numpy", "pillow", "libc", "processor", "blas"} <= usual.keys()
    assert all(usual[name] for name in usual if name != "settings")
