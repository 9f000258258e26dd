"""Checkpoints: the generator that a file holds, by names that do not depend on the container."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from editspec_runtime.errors import FileError, WeightsError
from editspec_runtime.io import digests as digest
from editspec_runtime.io.builtins import BUILTINS
from editspec_runtime.io.downloads import fetch, is_remote, remote
from editspec_runtime.io.files import (
    container,
    read_editspec_metadata,
    read_header,
    read_pickle,
    read_tensors,
    read_torch,
    safetensors_bytes,
)
from editspec_runtime.io.shards import is_sharded, stored

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PREFIX = "g_ema."
AVERAGE = "latent_avg"
SUFFIXES = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".pt2": "torch",
    ".pkl": "pickle",
}
"""What a file of weights should be by its name."""


def weights_path(
    weights: str,
    folder: Path,
    *,
    pin: str | None = None,
    fetching: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """The file that ``weights:`` or ``--model`` names: one of the package's, a path from `folder`,
    or one elsewhere.

    What lies elsewhere (``https://…``, ``hf://…``) is fetched into the cache where it is not there
    yet, unless `fetching` is false. `pin` is the spec's ``digest``. Raises `FileError` for a
    ``builtin:`` name that does not exist, and for what cannot be fetched.
    """
    if is_remote(weights):
        source = remote(weights, pin)
        return fetch(source, progress) if fetching else source.path
    if weights.startswith("builtin:"):
        if weights not in BUILTINS:
            raise FileError(f"There is no {weights}.", f"The package ships {', '.join(BUILTINS)}.")
        return BUILTINS[weights]
    try:
        return folder / Path(weights).expanduser()
    except RuntimeError as error:
        raise FileError(
            f"{weights} names the home of a user whom this machine does not know."
        ) from error


def container_of(path: Path) -> str:
    """What a file of weights is, by its bytes and its name: ``safetensors``, ``torch`` or
    ``pickle``. No torch.

    Raises `FileError` where name and bytes say different things.
    """
    named, found = SUFFIXES.get(path.suffix, "safetensors"), container(path)
    if found == "" or {named, found} == {
        "torch",
        "pickle",
    }:  # torch's files are pickles, in an archive or not
        return named if found != "torch" else found
    if found != named and path.suffix in SUFFIXES:
        ending = next(suffix for suffix, kind in SUFFIXES.items() if kind == found)
        raise FileError(
            f"{path} is a {found} file by its content, and its name ends in {path.suffix}.",
            f"Rename it to end in {ending}, if it comes from where you trust it to.",
        )
    return found


def generator_part(named: Mapping[str, T]) -> dict[str, T]:
    """Of everything in a flat file, the generator by its names inside ``g_ema``, and
    ``latent_avg``.
    """
    if not any(name.startswith(PREFIX) for name in named):
        return dict(named)
    part = {
        name.removeprefix(PREFIX): value for name, value in named.items() if name.startswith(PREFIX)
    }
    return part | {name: value for name, value in named.items() if name == AVERAGE}


def generator_names(named: Iterable[str]) -> dict[str, str]:
    """Of the names in a flat file, those of the generator, and what they are inside ``g_ema``."""
    return {name: own for own, name in generator_part({name: name for name in named}).items()}


@dataclass(frozen=True)
class Checkpoint:
    """The generator of a file.

    Attributes
    ----------
    generator
        Its tensors by their names inside ``g_ema``, noise buffers included, and ``latent_avg``
        where there is one.
    prefix
        What the file puts before these names (except before ``latent_avg``): ``g_ema.`` or nothing.
    others
        Tensors of the file that are no part of the generator; carried along untouched.
    metadata
        What editspec wrote into the file, if it did.
    """

    generator: dict[str, Tensor]
    prefix: str
    others: dict[str, Tensor]
    metadata: dict[str, object]

    def digest(self) -> str:
        """The digest of weights: over the generator only, whatever the container."""
        return digest.tensors_digest(self.generator)

    def with_generator(
        self, generator: dict[str, Tensor], metadata: dict[str, object]
    ) -> Checkpoint:
        """The same container around other weights."""
        return replace(self, generator=generator, metadata=metadata)

    def to_bytes(self) -> bytes:
        """The checkpoint as a safetensors file, with the names of the file that it came from."""
        named = {
            (name if name == AVERAGE else self.prefix + name): tensor
            for name, tensor in self.generator.items()
        }
        return safetensors_bytes(named | self.others, self.metadata)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.safetensors`` file (or the index of several), a ``.pt`` checkpoint or NVIDIA's
    ``.pkl``.

    Of these two, the generator only.

    Raises
    ------
    FileError
        The file is missing, damaged, or holds code.
    WeightsError
        It holds no generator, or numbers that are not finite.
    """
    if is_sharded(path):
        weights = stored(path)
        named = {
            name: tensor
            for file in weights.files
            for name, tensor in read_tensors(file.path).items()
        }
        checkpoint = _from_names(named, dict(weights.metadata))
        _require_sound(checkpoint.generator, path)
        return checkpoint
    if path.suffix == ".pt2":
        from editspec_runtime.families.torch_module.exported import read_exported

        checkpoint = Checkpoint(dict(read_exported(path)[0].state_dict()), "", {}, {})
        _require_sound(checkpoint.generator, path)
        return checkpoint
    kind = container_of(path)
    if kind == "torch":
        checkpoint = _from_torch(path, read_torch(path))
    elif kind == "pickle":
        from editspec_runtime.families.stylegan2 import pickled

        checkpoint = Checkpoint(pickled.generator(read_pickle(path), path), "", {}, {})
    else:
        named = read_tensors(path)
        checkpoint = _from_names(named, read_editspec_metadata(read_header(path), path))
    _require_sound(checkpoint.generator, path)
    return checkpoint


def _from_names(named: Mapping[str, Tensor], metadata: dict[str, object]) -> Checkpoint:
    """The checkpoint that flat names hold."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in named) else ""
    others = {
        n: t for n, t in named.items() if prefix and not n.startswith(PREFIX) and n != AVERAGE
    }
    return Checkpoint(generator_part(named), prefix, others, metadata)


def _from_torch(path: Path, content: object) -> Checkpoint:
    import torch

    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected a rosinality checkpoint or a state dict."
        )
    full = "g_ema" in content
    state = content["g_ema"] if full else content.get("state_dict", content)
    if not isinstance(state, dict) or not any(isinstance(t, torch.Tensor) for t in state.values()):
        raise WeightsError(
            f"{path} holds no generator: expected g_ema, state_dict or a bare state dict of tensors, "
            f"found {', '.join(map(str, list(content)[:8])) or 'nothing'}."
        )
    generator = {
        str(name): tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)
    }
    if isinstance(content.get(AVERAGE), torch.Tensor):
        generator[AVERAGE] = content[AVERAGE]
    return Checkpoint(generator, PREFIX if full else "", {}, {})


def _require_sound(generator: Mapping[str, Tensor], path: Path) -> None:
    odd = {name: kind for name, tensor in sorted(generator.items()) if (kind := _odd(tensor))}
    if odd:
        few = ", ".join(f"{name} ({kind})" for name, kind in list(odd.items())[:6])
        raise WeightsError(
            f"{path} holds tensors that editspec does not compute with: {few}"
            + (f" and {len(odd) - 6} more." if len(odd) > 6 else "."),
            "Save the generator with dense tensors in float32, float16 or bfloat16.",
        )
    bad = [name for name, tensor in sorted(generator.items()) if not bool(tensor.isfinite().all())]
    if bad:
        half = all(str(generator[name].dtype) == "torch.float16" for name in bad)
        raise WeightsError(
            f"{path} holds numbers that are not finite (NaN or infinity) in {', '.join(bad[:6])}"
            + (f" and {len(bad) - 6} more tensors." if len(bad) > 6 else "."),
            "Numbers beyond 65504 become infinite in float16; use the checkpoint in float32, or in bfloat16."
            if half
            else "A generator with such weights draws nothing; use an earlier checkpoint of the training.",
        )


def _odd(tensor: Tensor) -> str:
    """What keeps a tensor from being computed with and digested, in words; empty where nothing
    does.
    """
    import torch

    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without its numbers"
    return "" if kind in digest.SAFETENSORS_DTYPES else kind
