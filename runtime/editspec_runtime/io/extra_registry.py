"""The registry of extras, whose packages are installed only where asked for.

A command loads the extra that it needs before its work, and never imports the package elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from editspec_runtime.errors import UsageError


@dataclass(frozen=True)
class Extra:
    """One extra.

    Attributes
    ----------
    package
        The package whose modules are loaded, each when it is first needed.
    purpose
        The subject of the sentence that says what needs the extra.
    others
        Further packages of the extra.
    """

    package: str
    purpose: str
    others: tuple[str, ...] = ()


EXTRAS = {
    "bench": Extra("cv2", "The bench of the paper"),
    "cluster": Extra("editspec_runtime.executors.dask_cluster", "A cluster"),
    "diffusion": Extra("diffusers", "A text-to-image model", ("transformers", "tokenizers")),
    "gguf": Extra("gguf", "A GGUF file"),
    "hub": Extra("huggingface_hub", "An address of the Hugging Face hub"),
    "s3": Extra("boto3", "An address of S3", ("botocore",)),
    "signing": Extra("model_signing", "A signature", ("cryptography", "sigstore")),
    "studio": Extra("editspec.studio", "The studio"),
    "text": Extra("tokenizers", "A language model"),
}
"""The extras by their names in the metadata of the package."""


def load_extra(name: str, module: str = "", *, package: str = "") -> ModuleType:
    """Import a module of an extra's package, or the package itself.

    `package` is one of its other packages. Raises `UsageError` where a package that it needs is not
    installed.
    """
    extra = EXTRAS[name]
    assert not package or package in extra.others
    own = package or extra.package
    try:
        return import_module(f"{own}.{module}" if module else own)
    except ImportError as error:
        missing = error.name or own
        raise UsageError(
            f"{extra.purpose} needs the package {missing.partition('.')[0]}, "
            "which is not installed.",
            f"pip install 'editspec[{name}]'",
        ) from error
