"""Look up what a spec names: weights, layers, files. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from editspec_compiler.abbreviations import write_out
from editspec_compiler.document import Document, entries, kind, read_document
from editspec_compiler.layer_fit import (
    nonlinear_problem,
    observe_problem,
    rank_problem,
    refine_problem,
    unit_problem,
)
from editspec_compiler.layers import expand_layers, select_layers, suggest_layer
from editspec_compiler.libraries import Libraries
from editspec_compiler.loaded_spec import LoadedSpec, folder_of
from editspec_compiler.pins import Pin, read_pins
from editspec_compiler.problems import Problem, SpecError, SpecPath, suggest
from editspec_compiler.registry import (
    Surroundings,
    family_of,
    fields_of,
    modality_of,
    spec_type,
)
from editspec_compiler.schema import Erase, Refine, Solver
from editspec_compiler.spec_folder import Folder, project_folder
from editspec_compiler.uses import find_unresolved, find_uses, resolve_uses
from editspec_compiler.validation import check, fit
from editspec_compiler.visit import visit
from editspec_compiler.weights_place import find_weights, require_bytes
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.fields import FieldProblem, ModelFields
from editspec_runtime.core.method import LINEAR, RANK
from editspec_runtime.errors import EditError, FileError, reading_foreign
from editspec_runtime.families.registry import FAMILIES, import_part, read_architecture
from editspec_runtime.families.selection import Held, choose_by_fields, choose_container
from editspec_runtime.io.cache import Cache, default_cache
from editspec_runtime.io.files import read_header
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.io.places import container_of
from editspec_runtime.io.shards import is_sharded, read_stored
from editspec_runtime.methods.registry import method_of


def load(
    path: Path | str, cache: Cache | None = None, *, pins: Mapping[str, Pin] | None = None
) -> LoadedSpec:
    """Read a spec and check all that can be checked without torch.

    Parameters
    ----------
    path
        The spec.
    cache
        Where weights that lie elsewhere are kept. Default: the user's.
    pins
        The commits to take of what is used from git, by their sources. Default: those of the lock.

    Raises
    ------
    SpecError
        With everything that is wrong with the spec or what it names.
    EditError
        The spec is fine, and the weights themselves are damaged, or what is used from git is not
        what the lock pins.
    """
    path = Path(path)
    with reading_foreign(path):
        return load_document(read_document(path), path, cache, pins=pins)


def open_libraries(
    document: Document, path: Path, cache: Cache, pins: Mapping[str, Pin] | None = None
) -> Libraries:
    """Return what opens the libraries of a document, with the `pins` of its lock by default.

    The lock is not read for a document that uses nothing. Raises `SpecError` where it is not a
    lock.
    """
    if pins is None:
        pins = read_pins(path) if any(True for _ in find_uses(document)) else {}
    return Libraries(path.parent, pins, cache)


def load_document(
    document: Document,
    path: Path,
    cache: Cache | None = None,
    *,
    drafts: Path | None = None,
    pins: Mapping[str, Pin] | None = None,
    trees: Mapping[str, Path] | None = None,
) -> LoadedSpec:
    """Check a document as `load` does.

    Files that the document names are relative to the folder of `path`; those in the folder
    `drafts` stand for the ones of the same names there. `trees` are the folders of what was taken
    from git for edits that are written out in the document.
    """
    cache = cache or default_cache()
    libraries = open_libraries(document, path, cache, pins)
    document = resolve_uses(document, libraries)
    before = document.problems
    document = write_out(document, path.parent)
    left = [each for each in document.problems[len(before) :] if not _lies_in(each.path, before)]
    document = replace(document, problems=(*before, *left))
    spec, unfit = check(document)
    problems = _merge_keys_once(document.problems)
    libraries.trees.update(trees or {})
    folder = folder_of(path, drafts, libraries.trees)
    references = _References(document, folder, cache)
    found = references.problems()
    # A layer that is a number is told by its name, and not as a wrong type besides.
    named = {problem.path for problem in found if problem.code == Code.LAYER_UNKNOWN}
    missing = (Code.PARAMETER_MISSING, Code.VALUE_MISSING)
    open_places = [each for each in problems if each.code in missing]
    unresolved = find_unresolved(document)
    for problem in unfit:
        # Of an edit that is not there, nothing is there.
        if any(problem.path[: len(place)] == place for place in unresolved):
            continue
        if problem.path in named or _lies_in(problem.path, document.problems):
            continue
        # A list that lacks the rows of a file may be too short, too.
        if not _holds(problem.path, [*left, *open_places]):
            problems.append(problem)
    # Where a parameter has no value, nothing that the value should be is there.
    problems += [each for each in found if not _lies_in(each.path, open_places)]
    # A spec that is wrong is told first: its author can mend it, whatever the weights are.
    errors = [problem for problem in problems if not problem.warning]
    if errors or spec is None:
        raise SpecError(document.file, errors, document.text)
    if references.damage is not None:
        raise references.damage
    warnings = tuple(problem for problem in problems if problem.warning)
    architecture = references.architecture
    spec = expand_layers(spec, architecture)
    return LoadedSpec(
        path,
        document,
        spec,
        references.weights,
        architecture,
        warnings,
        drafts,
        tuple(libraries.used[source] for source in sorted(libraries.used)),
        libraries.trees,
    )


def _merge_keys_once(problems: Iterable[Problem]) -> list[Problem]:
    """Leave out every merge key but the first: whoever writes one writes many."""
    kept: list[Problem] = []
    for problem in problems:
        merged = problem.code == Code.KEY_MERGED
        if not (merged and any(other.code == Code.KEY_MERGED for other in kept)):
            kept.append(problem)
    return kept


# Where the text itself is wrong at a place, what the language finds there only follows from that.
def _lies_in(path: SpecPath, others: Iterable[Problem]) -> bool:
    return any(path[: len(other.path)] == other.path for other in others)


def _holds(path: SpecPath, others: Iterable[Problem]) -> bool:
    return any(other.path[: len(path)] == path for other in others)


def find_misfits(
    edit: dict[str, Any], layer: Layer, architecture: Architecture
) -> Iterator[FieldProblem | None]:
    """Find fields of an edit that ask for what its layer does not have."""
    solver, observe = fit(Solver, edit.get("solver")), edit.get("observe")
    rank = edit.get("rank")
    if type(rank) is int and (solver is None or RANK in method_of(solver).takes):
        yield rank_problem(rank, layer)
    if solver is not None and LINEAR in method_of(solver).needs:
        yield nonlinear_problem(layer, method_of(solver))
    if isinstance(observe, str):
        yield observe_problem(observe, architecture, layer.name)
    refine = fit(Refine, edit.get("refine"))
    if refine is not None and refine.at is not None:
        yield refine_problem(refine.at, architecture, layer.name, _erases(edit))


def _erases(edit: dict[str, Any]) -> bool:
    """Return whether a source of an edit erases units."""
    sides = [edit, *entries(edit, "pairs")]
    return any(fit(Erase, side.get("source")) for side in sides if isinstance(side, dict))


class _References:
    """Look-up of what a document names, where no mistake hides another.

    Attributes
    ----------
    weights, architecture
        As in `LoadedSpec`, once `problems` has been asked for.
    damage
        What is wrong with the weights, which is not a problem of the spec; after `problems`, too.
    """

    def __init__(self, document: Document, folder: Folder, cache: Cache) -> None:
        self.document = document
        self.folder = folder
        self.cache = cache
        self.family = family_of(document)
        self.weights = project_folder(folder)
        self.architecture: Architecture | None = None
        self.damage: EditError | None = None

    def problems(self) -> list[Problem]:
        """Find everything that a document names and that does not exist or does not fit."""
        data, modality, spec = self.document.data, modality_of(self.family), spec_type(self.family)
        fields = self._fields(data.get("model"))
        found: list[Problem] = []
        if fields is not None:  # first: what layers and latents may be follows from the weights
            found += self._model(fields)
        items = list(visit(spec, data))
        surroundings = Surroundings(self.document, self.folder, self.architecture, self.weights)
        # The document and not the checked spec is walked: it may fit the language only in part.
        # Thousands of rows may name one mask, which is looked at once unless it is wrong.
        sound: set[tuple[str, str]] = set()
        for item in items:
            same = (item.role, repr(item.value))
            if same not in sound:
                problems = list(modality.references(item, surroundings))
                found += problems
                if all(problem.warning for problem in problems):
                    sound.add(same)
        for number, edit in enumerate(entries(data, "edits")):
            path: SpecPath = ("edits", number)
            layers = []
            for where, name in _named_layers(edit):
                named = self._find_layers(name, several=where != ("layer",))
                several: list[Layer | None] = [*named] if named else [None]
                for layer in several:
                    found += self._edit(path, where, edit, layer)
                layers += named
            if layers:
                own = [item for item in items if item.path[:2] == path]
                found += modality.edit_problems(path, own, layers[-1], surroundings)
        return found

    def _fields(self, given: Any) -> ModelFields | None:
        """Read the fields of the model that the family has; None where they do not fit."""
        fields = fields_of(self.family)
        if not isinstance(given, dict):
            return None
        known = {name: value for name, value in given.items() if name in fields.model_fields}
        found: ModelFields | None = fit(fields, known)
        return found

    def _model(self, model: ModelFields) -> Iterator[Problem]:
        problem = self.document.problem
        if model.family not in FAMILIES:
            message = f"there is no family {model.family}"
            hint = suggest(model.family, list(FAMILIES))
            yield problem(("model", "family"), message, hint, code=Code.FAMILY_UNKNOWN)
        try:
            self.weights = find_weights(model, project_folder(self.folder), self.cache)
        except FileError as error:
            where = ("model", "weights")
            yield problem(where, error.message, error.hint, code=Code.WEIGHTS_UNREADABLE)
            return
        try:
            yield from self._tensors(model)
        except EditError as error:
            self.damage = error

    def _tensors(self, model: ModelFields) -> Iterator[Problem]:
        if not self.weights.exists():  # elsewhere, and not fetched yet
            return
        sharded = is_sharded(self.weights)
        if model.digest is not None and model.digest.startswith("sha256:"):
            if sharded:
                message = "sha256: pins the bytes of one file, and these weights are several"
                hint = "pin the digest that editspec inspect tells"
                where = ("model", "digest")
                yield self.document.problem(where, message, hint, code=Code.WEIGHTS_PIN)
                return
            # Before the header is read: bytes that are not those of the pin are not looked into.
            require_bytes(self.weights, model.digest)
        family = FAMILIES.get(model.family)
        if family is not None and family.in_parts:
            # Before the tensors: what the folder lacks, or what it is instead, is said by its own.
            import_part(family.config)(self.weights)
        readable = sharded or container_of(self.weights) == "safetensors"
        if not readable or family is None or family.read_architecture is None:
            return
        files = read_stored(self.weights).files if sharded else [read_header(self.weights)]
        named: dict[str, TensorInfo] = {}
        for file in files:
            named.update(file.tensors)
        held = Held((), named)
        container = choose_container(self.weights, [held], choose_by_fields(model))
        tensors = held.part(container)
        self.architecture = read_architecture(model.family, tensors, self.weights)
        for found in model.problems_with(self.architecture):
            yield self.document.misfit(("model",), found)

    def _find_layers(self, name: Any, *, several: bool) -> list[Layer]:
        """Find the layers of a name; none where there are none, or where they are not known yet."""
        if self.architecture is None or not isinstance(name, str):
            return []
        layers = self.architecture.layers
        if not several:
            return [layers[name]] if name in layers else []
        return [layers[each] for each in select_layers(name, self.architecture)]

    def _edit(
        self, path: SpecPath, where: SpecPath, edit: dict[str, Any], layer: Layer | None
    ) -> Iterator[Problem]:
        """Find what an edit asks of a layer and the layer does not have.

        `path` is that of the edit, and `where` leads from there to the name of the layer.
        """
        architecture = self.architecture
        if architecture is None:
            return
        name: Any = edit
        for step in where:
            name = name[step]
        if type(name) is int:
            message = f"expected the name of a layer, found {kind(name)}"
            hint = suggest_layer(name, architecture.layers)
            place = (*path, *where)
            yield self.document.problem(place, message, hint, code=Code.LAYER_UNKNOWN)
        if not isinstance(name, str):
            return
        if layer is None:
            message = f"there is no {name} in these weights"
            hint = _suggest_layers(name, architecture)
            place = (*path, *where)
            yield self.document.problem(place, message, hint, code=Code.LAYER_UNKNOWN)
            return
        for each in find_misfits(edit, layer, architecture):
            if each is not None:
                yield self.document.misfit(path, each)
        yield from self._units(path, edit, layer)

    def _units(self, path: SpecPath, edit: dict[str, Any], layer: Layer) -> Iterator[Problem]:
        """Find sources that erase more units than the layer has."""
        sides = [(path, edit)]
        for index, pair in enumerate(entries(edit, "pairs")):
            sides.append(((*path, "pairs", index), pair))
        for where, side in sides:
            if not isinstance(side, dict):
                continue
            source = fit(Erase, side.get("source"))
            if source is not None and (found := unit_problem(source.erase, layer)):
                yield self.document.misfit((*where, "source", "erase"), found)


def _suggest_layers(name: str, architecture: Architecture) -> str:
    """Write a hint that names layers, or the groups of many."""
    if architecture.groups:
        return f"{suggest(name, list(architecture.groups))}, and names with *"
    return suggest_layer(name, architecture.layers)


def _named_layers(edit: Any) -> Iterator[tuple[SpecPath, Any]]:
    """Yield the names of the layers of an edit, and the ways to them."""
    if not isinstance(edit, dict):
        return
    if "layer" in edit:
        yield ("layer",), edit["layer"]
    layers = edit.get("layers")
    if isinstance(layers, str):
        yield ("layers",), layers
    if isinstance(layers, list):
        for number, name in enumerate(layers):
            yield ("layers", number), name
