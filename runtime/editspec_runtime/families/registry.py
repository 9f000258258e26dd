"""The registry of the families of models that can be edited.

An entry names its parts as ``module:attribute``. A part is imported when it is asked for, so that a
command pays for the family of its spec alone. This module imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_runtime.errors import WeightsError
from editspec_runtime.io.weights import Container

if TYPE_CHECKING:
    from pydantic import BaseModel

    from editspec_runtime.core.architecture import Architecture
    from editspec_runtime.core.fields import ModelFields
    from editspec_runtime.io.headers import TensorInfo

ROOM = "editspec_runtime.families"
GENERATOR_FIELDS = "editspec_runtime.modalities.image.fields:GeneratorFields"


@dataclass(frozen=True)
class Family:
    """An adapter to a kind of model.

    Attributes
    ----------
    name
        The name that a spec gives.
    modality
        The modality of its inputs and outputs, which decides what an edit of it may say.
    fields
        ``module:class``, the type of ``model:`` in a spec.
    read_architecture
        ``module:function``, from the names and shapes of the tensors to the layers; None where
        modules alone tell them.
    make
        ``module:function``, from ``(weights, fields, origin, compatibility)`` to a model.
    description, loads
        The models and the files that are read, in words for people.
    loading
        The fields of ``model:`` that say which network is loaded. A text from a browser may not
        change them.
    expects
        ``module:function``, from ``(fields, origin)`` to the shapes of the model's tensors by name,
        where `read_architecture` is None; may be empty.
    readers
        By the ending of a file that holds more than named tensors, ``module:function``: from the
        path to the tensors by name.
    title
        The name of its models for people.
    pickled
        ``module:function``, from a module in a pickle to its tensors by name and a list of problems
        in words; tensors are None where it is not of this family. May be empty.
    prefix
        The text that a checkpoint of the whole training puts before the names of the model; empty
        where there is no such checkpoint.
    beside
        Tensors that belong to the model and lie in such a checkpoint without the prefix.
    config
        ``module:function``, from the path of the weights to what a file beside them says of the
        network, which `read_architecture` takes as its second argument; may be empty.
    in_parts
        Whether its weights are a folder of several models.
    imports
        By the ending of the one file in which another program keeps a whole model,
        ``module:function``: from the path to a `ForeignModel`.
    runs_code
        Whether a spec can name foreign code that makes the network.
    export_note
        A note for users of an exported adapter of this family; may be empty.
    """

    name: str
    modality: str
    fields: str
    read_architecture: str | None
    make: str
    description: str
    loads: str
    title: str = ""
    pickled: str = ""
    loading: tuple[str, ...] = ("weights",)
    expects: str = ""
    readers: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    beside: tuple[str, ...] = ()
    config: str = ""
    in_parts: bool = False
    imports: Mapping[str, str] = field(default_factory=dict)
    runs_code: bool = False
    export_note: str = ""

    def load_fields(self) -> type[ModelFields]:
        """Import the type of ``model:``."""
        fields: type[ModelFields] = import_part(self.fields)
        return fields


FAMILIES: dict[str, Family] = {}
"""The families by name, in the order in which weights are tried as theirs."""


def register_family(family: Family) -> None:
    """Make a family known by its name, in the place of an earlier one of this name."""
    FAMILIES[family.name] = family


def find_family(name: str) -> Family:
    """Find a family by its name.

    Raises `WeightsError`, with the nearest name, where there is none.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    near = difflib.get_close_matches(name, FAMILIES, n=1)
    guess = f' Did you mean "{near[0]}"?' if near else ""
    raise WeightsError(
        f'There is no family "{name}".{guess}', f"The families are: {', '.join(FAMILIES)}."
    )


def read_architecture(
    family: str, tensors: Mapping[str, TensorInfo], path: Path | None = None
) -> Architecture:
    """Read the layers and sizes of a model from the names and shapes of its tensors.

    `tensors` are named as in the model, without the prefix of a checkpoint. `path` is where they
    lie; a family whose network a file beside them describes reads that, too. Raises `WeightsError`
    for an unknown family, or tensors that do not fit it.
    """
    found = find_family(family)
    read = found.read_architecture
    if read is None:
        raise WeightsError(
            f"The tensors alone do not tell the layers of a {family} network.",
            "Write a spec with model.module; editspec inspect SPEC --allow-code lists them.",
        )
    architecture: Architecture
    if found.config and path is not None:
        architecture = import_part(read)(tensors, import_part(found.config)(path))
    else:
        architecture = import_part(read)(tensors)
    return architecture


def containers() -> list[Container]:
    """The containers of whole trainings, one for each family that has such files."""
    families = [family for family in FAMILIES.values() if family.prefix]
    return [Container(family.prefix, family.beside) for family in families]


def loading_fields() -> tuple[str, ...]:
    """The fields of ``model:`` that say which network is loaded, of all families."""
    fields = {"family": None}
    for family in FAMILIES.values():
        fields |= dict.fromkeys(family.loading)
    return tuple(fields)


def read_fields(model: BaseModel) -> ModelFields:
    """Read the fields of a family from the ``model:`` of a checked spec."""
    fields = find_family(str(getattr(model, "family", ""))).load_fields()
    if isinstance(model, fields):
        return model
    return fields.model_validate(model.model_dump(include=set(fields.model_fields)))


def import_part(place: str) -> Any:
    """Import what ``module:attribute`` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


register_family(
    Family(
        name="stylegan2",
        modality="image",
        fields=GENERATOR_FIELDS,
        read_architecture=f"{ROOM}.stylegan2.architecture:read_architecture",
        make=f"{ROOM}.stylegan2.make:make_stylegan2",
        description=(
            "StyleGAN2 generators with skip or residual connections or neither, of gray, color or "
            "RGBA images, any channel table, 8x8 to 1024x1024"
        ),
        loads=(
            "rosinality checkpoints: .pt (g_ema and latent_avg, or the bare state dict), or their "
            "names in .safetensors; NVIDIA's .pkl of stylegan2-ada-pytorch and stylegan3 "
            "(StyleGAN2 configurations, class-conditional too)"
        ),
        title="StyleGAN2",
        pickled=f"{ROOM}.stylegan2.pickled:read_module",
        prefix="g_ema.",
        beside=("latent_avg",),
        export_note=(
            "StyleGAN2 modulates its weights, and so its convolutions are not nn.Conv2d: peft can "
            "merge this adapter into nn.Conv2d modules of the same names (docs/supply-chain.md "
            "shows how), but cannot run it beside the model."
        ),
    )
)
register_family(
    Family(
        name="proggan",
        modality="image",
        fields=GENERATOR_FIELDS,
        read_architecture=f"{ROOM}.proggan.architecture:read_architecture",
        make=f"{ROOM}.proggan.make:make_proggan",
        description="Progressive GAN generators, whose layers are linear from key to value",
        loads=(
            "the layout of the paper's authors (layerN.conv.weight, layerN.wscale.b, "
            "output_HxW.*): .pth or .pt (a state dict, bare or under state_dict), and the same "
            "names in .safetensors"
        ),
    )
)
register_family(
    Family(
        name="torch",
        modality="image",
        fields=f"{ROOM}.torch_module.fields:ModuleFields",
        read_architecture=None,
        make=f"{ROOM}.torch_module.make:make_module",
        description=(
            "any torch network from latents to images or vectors; its Linear, Conv1d, Conv2d and "
            "ConvTranspose2d layers"
        ),
        loads=(
            "state dicts in .safetensors and .pt, with model.module in the spec; files of "
            "torch.export (.pt2) alone"
        ),
        loading=("weights", "module", "arguments", "inputs", "layers", "latent_shape"),
        expects=f"{ROOM}.torch_module.make:expected_shapes",
        readers={".pt2": f"{ROOM}.torch_module.exported:read_state"},
        runs_code=True,
    )
)
register_family(
    Family(
        name="transformer",
        modality="text",
        fields="editspec_runtime.modalities.text.fields:TextFields",
        read_architecture=f"{ROOM}.transformer.architecture:read_architecture",
        make=f"{ROOM}.transformer.make:make_transformer",
        description=(
            "language models: Llama, SmolLM2, Mistral, Qwen2, Qwen3, Gemma, GPT-2, GPT-NeoX, "
            "Pythia and GPT-J; layerN is the second matrix of the MLP of block N"
        ),
        loads="folders as the hub has them: config.json, *.safetensors and tokenizer.json",
        title="transformer",
        config=f"{ROOM}.transformer.config:read_config",
        imports={".gguf": f"{ROOM}.transformer.gguf:read_gguf"},
    )
)
register_family(
    Family(
        name="diffusion",
        modality="text_to_image",
        fields="editspec_runtime.modalities.text_to_image.fields:PipelineFields",
        read_architecture=f"{ROOM}.diffusion.architecture:read_architecture",
        make=f"{ROOM}.diffusion.make:make_diffusion",
        description=(
            "text-to-image models with a U-Net: Stable Diffusion 1.x, 2.x and XL; layers are the "
            "matrices to_k and to_v of their cross-attention"
        ),
        loads=("folders of diffusers: model_index.json, unet, text_encoder (XL: two), tokenizer"),
        title="text-to-image model",
        config=f"{ROOM}.diffusion.config:read_config",
        in_parts=True,
    )
)
