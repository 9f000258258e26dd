"""What a spec names: the weights, their layers, masks and latents. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_compiler.document import Document, read_document, unreadable
from editspec_compiler.modalities.image.masks import MaskError, mask_area, mask_image
from editspec_compiler.problems import Path as SpecPath
from editspec_compiler.problems import Problem, SpecError
from editspec_compiler.schema import (
    ClosedForm,
    Erase,
    ErasedUnits,
    Intervention,
    Latent,
    LatentFile,
    Latents,
    Mask,
    Model,
    Scene,
    Solver,
    Spec,
    Union,
    check,
    fitting,
    near,
)
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.compatibility import LEGACY_LENGTH
from editspec_runtime.errors import EditError, FileError, WeightsError
from editspec_runtime.families import FAMILIES, read_architecture
from editspec_runtime.families.checkpoints import container_of, generator_part, weights_path
from editspec_runtime.io.downloads import is_remote
from editspec_runtime.io.files import read_header
from editspec_runtime.io.shards import INDEX, is_sharded, stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LoadedSpec:
    """A spec whose files and layers exist.

    Attributes
    ----------
    path
        Where it was read from.
    document
        Its text, and where everything stands in it.
    spec
        What it says.
    weights
        The checkpoint's file.
    layout
        The model's layers; None for a ``.pt`` or ``.pkl``, which cannot be looked into without
        torch, and for weights that are still to be fetched.
    """

    path: Path
    document: Document
    spec: Spec
    weights: Path
    architecture: Architecture | None

    def error(self, path: SpecPath, message: str, hint: str = "") -> SpecError:
        """An error at a place of the spec, for what only a later stage can find."""
        return SpecError(
            self.document.file, [self.document.problem(path, message, hint)], self.document.text
        )

    def mask_area(
        self, mask: Mask, where: SpecPath, image_size: int, resolution: int
    ) -> NDArray[np.float64]:
        """The area of a mask at a resolution, [resolution, resolution]. Raises `SpecError` at
        `where`.
        """
        try:
            return mask_area(
                mask,
                self.path.parent,
                image_size,
                resolution,
                legacy=self.spec.compatibility is not None,
            )
        except MaskError as error:
            raise self.error(where, error.message, error.hint) from error

    def latent_vector(
        self, latent: list[float] | LatentFile, where: SpecPath, size: int
    ) -> NDArray[np.float32]:
        """A latent that is given as numbers or in a file, [size]. Raises `SpecError` at `where`."""
        try:
            return _latent_vector(latent, self.path.parent, size)
        except FileError as error:
            raise self.error(where, error.message, error.hint) from error

    def check_files(self) -> list[str]:
        """The files that the checks name, by the names that the spec gives them; no edit depends on
        them.
        """
        names: set[str] = set()
        for given in self.spec.checks:
            for images in getattr(given, "images", None) or ():
                names.update(() if images.mask is None else _mask_files(images.mask))
                names.update(
                    latent.file for latent in images.latents if isinstance(latent, LatentFile)
                )
        return sorted(names)

    def files(self, number: int) -> dict[str, Path]:
        """The files that edit `number` depends on beside the weights, by the names that the spec
        gives them.
        """
        names: set[str] = set()
        for _, scene in scenes(self.spec, number):
            masks = [getattr(scene, "mask", None), getattr(scene, "exclude", None)]
            masks += [scene.intervene.mask] if scene.intervene is not None else []
            for mask in masks:
                names.update(() if mask is None else _mask_files(mask))
            if isinstance(scene.latent, LatentFile):
                names.add(scene.latent.file)
        model = self.spec.model
        if model.module is not None:
            names.update(_module_files(model.module, self.path.parent))
        files = {name: self.path.parent / name for name in sorted(names)}
        if self.weights.suffix == ".pt2":  # whose graph is no part of the digest of weights
            files[model.weights] = self.weights
        return files


def load(path: Path | str) -> LoadedSpec:
    """Read a spec and check all that can be checked without torch.

    Raises
    ------
    SpecError
        With everything that is wrong with the spec or what it names.
    EditError
        The spec is fine, and the weights themselves are damaged.
    """
    path = Path(path)
    return load_document(read_document(path), path)


def load_document(document: Document, path: Path) -> LoadedSpec:
    """The spec that a document holds, as `load`; what it names is looked for beside `path`."""
    spec, unfit = check(document)
    problems = list(document.problems)
    problems += [problem for problem in unfit if not _lies_in(problem.path, document.problems)]
    references = _References(document, path.parent, document.data.get("compatibility") is not None)
    problems += references.problems()
    if problems or spec is None:
        raise SpecError(document.file, problems, document.text)
    if references.damage is not None:
        raise references.damage
    return LoadedSpec(path, document, spec, references.weights, references.architecture)


def unfit_class(label: int | None, architecture: Architecture) -> tuple[str, str] | None:
    """Why a class does not fit a generator, and what to do; None where it does."""
    if architecture.classes and label is None:
        return (
            f"these weights draw {architecture.classes} classes, and none is given",
            "give model.class_label: 0, say",
        )
    if label is not None and not architecture.classes:
        return "these weights know no classes", "leave class_label out"
    if label is not None and label >= architecture.classes:
        return f"there is no class {label}", f"the classes are 0 to {architecture.classes - 1}"
    return None


def _lies_in(path: SpecPath, others: Iterable[Problem]) -> bool:
    return any(path[: len(other.path)] == other.path for other in others)


def scenes(spec: Spec, number: int) -> Iterator[tuple[SpecPath, Scene]]:
    """Every scene that edit `number` names, with its path."""
    edit = spec.edits[number]
    for index, pair in enumerate(edit.sides):
        path = ("edits", number) if edit.pairs is None else ("edits", number, "pairs", index)
        if not isinstance(pair.source, Erase):
            yield (*path, "source"), pair.source
        yield (*path, "target"), pair.target
    for index, place in enumerate(edit.context or ()):
        yield ("edits", number, "context", index), place


def unit_problem(erased: ErasedUnits, layer: Layer) -> tuple[str, str] | None:
    """What is wrong with the number of units that are erased from the keys of a layer, and a hint;
    None if nothing.
    """
    most = layer.in_channels
    if erased.units <= most:
        return None
    return (
        f"{layer.name} has {most} units in its key, and {erased.units} are to be erased",
        f"write {most} or less",
    )


def intervention_problem(
    change: Intervention, architecture: Architecture, edited: str
) -> tuple[str, str, str] | None:
    """What is wrong with an intervention: the key that is, what, and a hint; None if nothing."""
    names = list(architecture.layers)
    if change.layer not in names:
        return "layer", f"there is no {change.layer} in these weights", near(change.layer, names)
    before = names[: names.index(edited)]
    if change.layer not in before:
        hint = f"the layers before it: {', '.join(before)}" if before else "edit a later layer"
        return "layer", f"{change.layer} does not come before {edited}, which is edited", hint
    channels = architecture.layers[change.layer].out_channels
    beyond = [unit for unit in change.units if unit >= channels]
    if beyond:
        return (
            "units",
            f"{change.layer} has {channels} units, and there is no unit {beyond[0]}",
            (f"units are 0 to {channels - 1}"),
        )
    return None


def observe_problem(
    observe: str, architecture: Architecture, edited: str
) -> tuple[str, str] | None:
    """What is wrong with the layer that is observed, and a hint; None if nothing."""
    names = list(architecture.layers)
    if observe not in names:
        return f"there is no {observe} in these weights", near(observe, names)
    if names.index(observe) < names.index(edited):
        later = ", ".join(names[names.index(edited) :])
        return (
            f"{observe} comes before {edited}, which is edited: it sees nothing of the change",
            f"one of {later}",
        )
    return None


def nonlinear_problem(layer: Layer) -> tuple[str, str] | None:
    """Why a layer has no closed form, and a hint; None where it has one."""
    if layer.linear:
        return None
    message = f"{layer.name} is not linear from key to value, so that there is no closed form"
    return (
        message,
        "write method: projected-gradient or method: direct; the layers of proggan have a closed form",
    )


class _References:
    """Checks what a document names, part by part, so that a mistake in one part hides none in
    another.

    Attributes
    ----------
    weights, layout
        As in `LoadedSpec`, once `problems` has been asked for.
    damage
        What is wrong with the weights, which is no problem of the spec; then, too.
    """

    def __init__(self, document: Document, folder: Path, legacy: bool) -> None:
        self.document = document
        self.folder = folder
        self.legacy = legacy
        self.weights = folder
        self.architecture: Architecture | None = None
        self.damage: EditError | None = None

    def problems(self) -> list[Problem]:
        """Everything that a document names and that is not there or does not fit."""
        model = fitting(Model, self.document.data.get("model"))
        found = [] if model is None else list(self._model(model))
        edits = self.document.data.get("edits")
        for number, edit in enumerate(edits if isinstance(edits, list) else []):
            if isinstance(edit, dict):
                found += self._edit(("edits", number), edit)
        checks = self.document.data.get("checks")
        for number, given in enumerate(checks if isinstance(checks, list) else []):
            images = given.get("images") if isinstance(given, dict) else None
            for index, each in enumerate(images if isinstance(images, list) else []):
                if isinstance(each, dict):
                    found += self._images(("checks", number, "images", index), each)
        return found

    def _images(self, path: SpecPath, images: dict[str, Any]) -> Iterator[Problem]:
        yield from self._mask((*path, "mask"), fitting(Mask, images.get("mask")))
        latents = images.get("latents")
        for index, latent in enumerate(latents if isinstance(latents, list) else []):
            yield from self._latent((*path, "latents", index), fitting(Latent, latent))

    def _model(self, model: Model) -> Iterator[Problem]:
        if model.family not in FAMILIES:
            hint = near(model.family, list(FAMILIES))
            yield self.document.problem(
                ("model", "family"), f"there is no family {model.family}", hint
            )
        try:
            self.weights = _weights_file(model, self.folder)
        except FileError as error:
            yield self.document.problem(("model", "weights"), error.message, error.hint)
            return
        try:
            yield from self._tensors(model)
        except EditError as error:
            self.damage = error

    def _tensors(self, model: Model) -> Iterator[Problem]:
        if not self.weights.exists():  # elsewhere, and not fetched yet
            return
        sharded = is_sharded(self.weights)
        if model.digest is not None and model.digest.startswith("sha256:"):
            if sharded:
                message = "sha256: pins the bytes of one file, and these weights are several"
                yield self.document.problem(
                    ("model", "digest"), message, "pin the digest that editspec inspect tells"
                )
                return
            _require_bytes(self.weights, model.digest)
        if (
            not sharded and container_of(self.weights) != "safetensors"
        ) or model.family not in FAMILIES:
            return
        if FAMILIES[model.family].read_architecture is None:
            return
        files = stored(self.weights).files if sharded else [read_header(self.weights)]
        tensors = generator_part(
            {name: info for file in files for name, info in file.tensors.items()}
        )
        self.architecture = read_architecture(model.family, tensors)
        if model.truncation != 1.0 and self.architecture.average is None:
            message = "truncation needs the mean of w, and these weights hold no latent_avg"
            yield self.document.problem(("model", "truncation"), message, "leave truncation out")
        if unfit := unfit_class(model.class_label, self.architecture):
            yield self.document.problem(("model", "class_label"), *unfit)

    def _edit(self, path: SpecPath, edit: dict[str, Any]) -> Iterator[Problem]:
        layer = edit.get("layer")
        if (
            isinstance(layer, str)
            and self.architecture is not None
            and layer not in self.architecture.layers
        ):
            hint = near(layer, list(self.architecture.layers))
            yield self.document.problem(
                (*path, "layer"), f"there is no {layer} in these weights", hint
            )
        context = edit.get("context")
        context = context if isinstance(context, list) else []
        pairs = edit.get("pairs")
        pairs = pairs if isinstance(pairs, list) else []
        sides = [
            (path, edit),
            *(((*path, "pairs", index), pair) for index, pair in enumerate(pairs)),
        ]
        named: list[tuple[SpecPath, Any]] = [
            ((*where, name), side.get(name))
            for where, side in sides
            for name in ("source", "target", "query")
            if isinstance(side, dict)
        ]
        named += [((*path, "context", number), place) for number, place in enumerate(context)]
        for where, place in named:
            if isinstance(place, dict):
                yield from self._mask((*where, "mask"), fitting(Mask, place.get("mask")))
                yield from self._mask((*where, "exclude"), fitting(Mask, place.get("exclude")))
                yield from self._latent((*where, "latent"), fitting(Latent, place.get("latent")))
                change = place.get("intervene")
                if isinstance(change, dict):
                    yield from self._mask(
                        (*where, "intervene", "mask"), fitting(Mask, change.get("mask"))
                    )
        if (
            self.architecture is not None
            and isinstance(layer, str)
            and layer in self.architecture.layers
        ):
            yield from self._fit(path, edit, self.architecture.layers[layer])
            for where, place in named:
                yield from self._reach(where, place, layer)

    def _fit(self, path: SpecPath, edit: dict[str, Any], layer: Layer) -> Iterator[Problem]:
        """What an edit asks of its layer and the layer does not have."""
        assert self.architecture is not None
        solver, observe = fitting(Solver, edit.get("solver")), edit.get("observe")
        if isinstance(solver, ClosedForm) and (problem := nonlinear_problem(layer)):
            yield self.document.problem((*path, "solver"), *problem)
        if isinstance(observe, str) and (
            problem := observe_problem(observe, self.architecture, layer.name)
        ):
            yield self.document.problem((*path, "observe"), *problem)

    def _reach(self, where: SpecPath, given: Any, layer: str) -> Iterator[Problem]:
        """What a source or a target asks of the layers and they do not have."""
        assert self.architecture is not None
        source = fitting(Erase, given)
        if source is not None and (
            problem := unit_problem(source.erase, self.architecture.layers[layer])
        ):
            yield self.document.problem((*where, "erase", "units"), *problem)
        change = fitting(Intervention, given.get("intervene")) if isinstance(given, dict) else None
        if change is not None and (found := intervention_problem(change, self.architecture, layer)):
            key, *words = found
            yield self.document.problem((*where, "intervene", key), *words)

    def _mask(self, where: SpecPath, mask: Mask | None) -> Iterator[Problem]:
        if isinstance(mask, Union):
            for index, part in enumerate(mask.union):
                yield from self._mask((*where, "union", index), part)
        elif isinstance(mask, str) or (mask is not None and self.architecture is not None):
            # Shapes are in pixels of an image whose size a .pt checkpoint does not tell yet; files
            # need no size.
            size = self.architecture.image_size if self.architecture is not None else 0
            try:
                mask_image(mask, self.folder, size, legacy=self.legacy)
            except MaskError as error:
                yield self.document.problem(where, error.message, error.hint)

    def _latent(self, where: SpecPath, latent: Latent | None) -> Iterator[Problem]:
        if (
            isinstance(latent, int)
            and self.document.data.get("latents")
            and latent >= LEGACY_LENGTH
        ):
            latents = fitting(Latents, self.document.data["latents"])
            if latents is not None and latents.sampler == "numpy-legacy":
                message = f"latent {latent} lies beyond the numpy-legacy stream, which ends at {LEGACY_LENGTH - 1}"
                yield self.document.problem(
                    where, message, "use the default sampler, whose items are drawn one by one"
                )
        if latent is None or isinstance(latent, int):
            return
        try:
            _latent_vector(
                latent,
                self.folder,
                self.architecture.latent_size if self.architecture is not None else None,
            )
        except FileError as error:
            yield self.document.problem(where, error.message, error.hint)


def _weights_file(model: Model, folder: Path) -> Path:
    """The file that ``weights:`` names, or the folder of several.

    Raises `FileError` where it cannot be read; what is remote is not fetched.
    """
    path = weights_path(model.weights, folder, pin=model.digest, fetching=False)
    if is_sharded(path) and any(path.glob(f"*{INDEX}")):
        return path
    if not is_remote(model.weights) and (why := unreadable(path)):
        raise FileError(why, "paths are relative to the spec")
    return path


def _require_bytes(weights: Path, pin: str) -> None:
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pin.removeprefix("sha256:"):
        raise WeightsError(
            f"{weights} is not the file that the spec pins: expected {pin}, found sha256:{found}.",
            "Get the pinned file, or change model.digest.",
        )


def _latent_vector(
    latent: list[float] | LatentFile, folder: Path, size: int | None
) -> NDArray[np.float32]:
    """The numbers of a latent, [size] float32; any length where `size` is not known yet.

    Raises `FileError` where they cannot be read, are too few or too many, or are not finite.
    """
    import numpy as np

    given = np.asarray(latent) if isinstance(latent, list) else _read_latent(folder, latent)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        vector = given.astype(np.float32).reshape(-1)
    if size is not None and vector.size != size:
        raise FileError(f"a latent of this model has {size} numbers, found {vector.size}")
    if not np.isfinite(vector).all():
        raise FileError("a latent has finite float32 numbers, found some that are not")
    return vector


def _read_latent(folder: Path, latent: LatentFile) -> NDArray[Any]:
    """The one row of floating point numbers that a file holds, whatever axes of length 1 are around
    it.
    """
    path = folder / latent.file
    if why := unreadable(path):
        raise FileError(why)
    array = _npy(path, latent.key) if path.suffix == ".npy" else _safetensors(path, latent.key)
    if max(array.shape, default=1) != array.size:
        raise FileError(
            f"{path} holds {' x '.join(map(str, array.shape))} numbers, expected those of one latent"
        )
    return array


def _npy(path: Path, key: str | None) -> NDArray[Any]:
    import numpy as np

    if key is not None:
        raise FileError(f"{path} holds one array, which has no name.", "Leave key out.")
    try:
        # Mapped, not read: a header that claims more than the file holds costs nothing.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy meets damage with errors of many kinds
        raise FileError(f"{path} holds no latent that can be read: {error}.") from error
    if array.dtype.kind != "f":
        raise FileError(f"{path} holds {array.dtype} values, expected floating point numbers.")
    return array


def _safetensors(path: Path, key: str | None) -> NDArray[Any]:
    from safetensors import safe_open

    tensors = read_header(path).tensors
    if key is None and len(tensors) != 1:
        raise FileError(
            f"{path} holds {len(tensors)} tensors: {', '.join(sorted(tensors))}.", "Give the key."
        )
    name = next(iter(tensors)) if key is None else key
    if name not in tensors:
        raise FileError(f"{path} holds no {name}.", f"It holds {', '.join(sorted(tensors))}.")
    if tensors[name].dtype not in ("F16", "F32", "F64"):
        raise FileError(f"{path} holds {tensors[name].dtype} values, expected F16, F32 or F64.")
    with safe_open(path, framework="numpy") as file:
        array: NDArray[Any] = file.get_tensor(name)
    return array


def _module_files(module: str, folder: Path) -> Iterator[str]:
    """The file of ``package.module:factory``, where it lies beside the spec."""
    path = module.partition(":")[0].replace(".", "/")
    yield from (name for name in (f"{path}.py", f"{path}/__init__.py") if (folder / name).is_file())


def _mask_files(mask: Mask) -> Iterator[str]:
    if isinstance(mask, str) and not mask.startswith("data:"):
        yield mask
    elif isinstance(mask, Union):
        for part in mask.union:
            yield from _mask_files(part)
