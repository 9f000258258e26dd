"""The environment: software, processor, libraries, settings that bits depend on."""

from __future__ import annotations

import functools
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from editspec_runtime import NUMERICS, __version__
from editspec_runtime.core.model import Model

PACKAGES = ("torch", "numpy", "pillow")
"""The packages whose numbers ours are made of."""

VARIABLES = (
    # Which kernels the BLAS takes, whatever the processor has.
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_VML_MODE",
    "OPENBLAS_CORETYPE",
    "BLIS_ARCH_TYPE",
    # Which kernels oneDNN takes, and how exactly it multiplies.
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_CPU_ISA_HINTS",
    "DNNL_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    # Which kernels numpy and the C library take.
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "GLIBC_TUNABLES",
    # The libraries of a GPU.
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "CUBLAS_WORKSPACE_CONFIG",
)
"""Environment variables under which the same libraries give other bits."""

INSTRUCTIONS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "asimd",
    "sve",
    "sve2",
    "bf16",
)
"""Sets of instructions that libraries have kernels for, by their names in ``/proc/cpuinfo``."""


def environment(model: Model) -> dict[str, str]:
    """List all that a model's bits depend on besides the inputs, by name."""
    weight = next(iter(model.weights.values()))
    precision = str(weight.dtype).removeprefix("torch.")
    return {**machine_environment(weight.device), "precision": precision}


def machine_environment(device: torch.device) -> dict[str, str]:
    """List all that bits on a device depend on besides inputs and precision, by name.

    Two processes with equal environments give equal bits. Libraries choose kernels by the
    instructions of the processor and by their own settings, and each kernel adds in an order of its
    own. The number of threads is not among it: no operation is shared by several threads.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        # As used: ATEN_CPU_CAPABILITY may say less than the processor has.
        name = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {
        "editspec": f"{__version__}/{NUMERICS}",
        **_versions(),
        "device": name,
        "processor": _processor(),
        "blas": _libraries(device.type == "cuda"),
        "settings": _settings(device.type == "cuda"),
    }


@functools.cache
def _versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in PACKAGES}
    versions["torch"] = torch.__version__
    libc = " ".join(platform.libc_ver()).strip()
    # exp, log and the like are the C library's.
    return versions | {"libc": libc or platform.platform()}


@functools.cache
def _processor() -> str:
    """The maker of the processor and the sets of instructions that it has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    maker = re.search(r"^(?:vendor_id|CPU implementer)\s*:\s*(\S+)", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    found = [name for name in INSTRUCTIONS if name in has]
    return " ".join([platform.machine(), maker[1] if maker else "unknown", *found])


@functools.cache
def _libraries(on_gpu: bool) -> str:
    """The libraries that multiply matrices, and their versions."""
    shown = torch.__config__.show()
    kind = re.search(r"BLAS_INFO=([^,\s]+)", shown)
    found = [kind[1] if kind else "unknown"]
    named = (r"Math Kernel Library Version (\S+)", r"MKL-DNN (v\S+)", r"OpenBLAS (\S+)")
    for pattern in named:
        version = re.search(pattern, shown)
        if version:
            found.append(version[0])
    if on_gpu:
        found += [f"CUDA {torch.version.cuda}", f"cuDNN {_cudnn_version()}"]
    return ", ".join(found)


def _cudnn_version() -> object:
    backend: Any = torch.backends.cudnn
    return backend.version()


def _settings(on_gpu: bool) -> str:
    """The settings of these libraries that are not the default; empty where all are."""
    found = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    backends: Any = torch.backends
    if not backends.mkldnn.enabled:
        found.append("mkldnn=off")
    used = [
        ("mkldnn.matmul", backends.mkldnn.matmul, "none"),
        ("mkldnn.conv", backends.mkldnn.conv, "none"),
    ]
    if on_gpu:
        used.append(("cuda.matmul", backends.cuda.matmul, "none"))
        used.append(("cudnn.conv", backends.cudnn.conv, "tf32"))
    for name, backend, usual in used:
        if backend.fp32_precision != usual:
            found.append(f"{name}={backend.fp32_precision}")
    if torch.are_deterministic_algorithms_enabled():
        found.append("deterministic")
    if on_gpu and backends.cudnn.benchmark:
        found.append("cudnn.benchmark")
    return " ".join(found)
