"""The environment names what bits depend on, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, torch
from editspec_runtime.maths.environment import machine_environment
print(json.dumps(machine_environment(torch.device("cpu"))))
"""


def environment_under(**variables: str) -> dict[str, str]:
    """The environment of a process with these environment variables."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    return environment_under()


@pytest.mark.parametrize(
    ("variable", "value", "names"),
    [
        ("MKL_CBWR", "AVX2", "settings"),
        ("MKL_CBWR", "COMPATIBLE", "settings"),
        ("OPENBLAS_CORETYPE", "Haswell", "settings"),
        ("ONEDNN_MAX_CPU_ISA", "SSE41", "settings"),
        ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2", "settings"),
        ("ATEN_CPU_CAPABILITY", "default", "device"),
    ],
)
def test_settings_of_the_libraries_are_named(
    usual: dict[str, str], variable: str, value: str, names: str
) -> None:
    other = environment_under(**{variable: value})
    assert {name for name in usual if usual[name] != other[name]} == {names}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MKL_CBWR", ""), ("LANG", "de_DE.UTF-8"), ("TZ", "Asia/Tokyo"), ("HOME", "/nowhere")],
)
def test_what_bits_do_not_depend_on_is_not_named(
    usual: dict[str, str], variable: str, value: str
) -> None:
    assert environment_under(**{variable: value}) == usual


def test_libraries_and_versions_are_named(usual: dict[str, str]) -> None:
    assert {"editspec", "torch", "numpy", "pillow", "libc", "processor", "blas"} <= usual.keys()
    assert all(usual[name] for name in usual if name != "settings")
