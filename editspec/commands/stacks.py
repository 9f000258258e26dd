"""What is done with patches after they are built: composed, rebased, compared, and found again in
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.commands.render import drawn_by
from editspec.engine.folder import BuildFolder
from editspec.engine.outputs import require_free_patch, require_free_picture
from editspec.engine.session import BuildSession
from editspec.modalities.image.pictures import before_and_after, png_bytes
from editspec_compiler import LoadedSpec, load
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError
from editspec_runtime.families.checkpoints import Checkpoint, read_checkpoint, weights_path
from editspec_runtime.io.digests import digest, tensor_digest, tensors_digest
from editspec_runtime.io.files import read_editspec_metadata, read_header, write
from editspec_runtime.maths.metric import (
    cosine,
    folded,
    norm,
    principal_cosines,
    recompress,
    row_space,
    unfolded,
)
from editspec_runtime.patches.patch import (
    FORMAT,
    Patch,
    apply_stack,
    make_patch,
    read_patch,
    require_chain,
    stack_results,
)

SINGULAR_VALUES = 16
"""How many of a spectrum are told."""


def compose(
    patches: Sequence[Path | str],
    out: Path | str,
    *,
    rank: int | None = None,
    spec: Path | str | LoadedSpec | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """One patch that does what a stack does, written to `out`.

    Without `rank` the factors are stacked, so that the change is the same; a full change is summed
    up. With `rank`, which needs the `spec` of the stack for its second moments, each parameter's
    change is replaced by the nearest one of that rank in the metric of C.

    Returns
    -------
    dict
        ``patch`` (where), ``digest``, ``result``, and for each parameter its ``rank`` and the share
        of the change that was ``lost``: the norm of what is missing relative to that of the change,
        in the metric of C; 0 when exact.

    Raises
    ------
    PatchError
        The patches do not follow one another, or with `rank` do not start from the base of the
        spec.
    NumericalError
        C is singular.
    """
    stack = chained(patches)
    require_free_patch(Path(out))
    names = sorted({name for patch in stack for name in patch.parameters})
    tensors: dict[str, Tensor] = {}
    lost = dict.fromkeys(names, 0.0)
    result = stack[-1].metadata["result"]
    if rank is None:
        for name in names:
            tensors |= _stacked([patch for patch in stack if name in patch.parameters], name)
    else:
        if spec is None:
            raise PatchError(
                "A lower rank is chosen in the metric of C, and C is that of a spec.",
                "Give --spec SPEC.",
            )
        session = BuildSession.of(spec, device, progress)
        require_chain(session.base, stack)
        for name in names:
            moment = _moment(session, name)
            matrix = sum(
                (unfolded(p.delta(name)) for p in stack if name in p.parameters), torch.zeros(())
            )
            found = recompress(matrix, moment, rank)
            shape, dtype = (
                session.checkpoint.generator[name].shape,
                getattr(torch, session.loaded.spec.precision),
            )
            tensors[f"{name}.D"] = found.directions.to(dtype)
            tensors[f"{name}.A"] = folded(found.coefficients, shape).to(dtype)
            lost[name] = found.lost
        result = tensors_digest(apply_stack(session.checkpoint.generator, [Patch.of(tensors, {})]))
    composed = Patch.of(tensors, {})
    ranks = {name: len(d) for name, d in composed.directions.items()}
    layers = sorted({patch.metadata["layer"] for patch in stack})
    patch = make_patch(
        composed.directions,
        composed.coefficients,
        {
            name: next(p.metadata["layouts"][name] for p in stack if name in p.parameters)
            for name in names
        },
        {
            "name": "+".join(patch.name for patch in stack),
            "family": stack[0].metadata["family"],
            "layer": "+".join(layers),
            "rank": max(ranks.values()) if len(ranks) == len(names) else None,
            "solver": {"method": "compose", "rank": rank},
            "edit": digest([patch.metadata["edit"] for patch in stack]),
            "composed": [patch.metadata["content"] for patch in stack],
            "base": stack[0].metadata["base"],
            "parent": stack[0].metadata["parent"],
            "result": result,
        },
        composed.deltas,
    )
    write(Path(out), patch.to_bytes())
    parameters = {name: {"rank": ranks.get(name), "lost": lost[name]} for name in names}
    return {
        "patch": str(out),
        "digest": patch.metadata["content"],
        "result": result,
        "parameters": parameters,
    }


def chained(patches: Sequence[Path | str]) -> list[Patch]:
    """Read patches that follow one another. Raises a `PatchError` where one was solved on other
    weights.
    """
    stack = [read_patch(Path(path)) for path in patches]
    for before, after in pairwise(stack):
        if after.metadata["parent"] != before.metadata["result"]:
            raise PatchError(
                f"Patch {after.name} was solved on weights {after.metadata['parent']}, and {before.name} leaves "
                f"{before.metadata['result']}.",
                "Give patches that follow one another, in their order.",
            )
    return stack


def _stacked(stack: Sequence[Patch], name: str) -> dict[str, Tensor]:
    """The tensors of a patch whose change of a parameter is the sum of those of a stack."""
    if all(name in patch.directions for patch in stack):
        return {
            f"{name}.D": torch.cat([patch.directions[name] for patch in stack]),
            f"{name}.A": torch.cat([patch.coefficients[name] for patch in stack], dim=1),
        }
    total = stack[0].stored(name)
    for patch in stack[1:]:
        change = patch.stored(name)
        total = total.reshape(change.shape) + change
    return {f"{name}.delta": total}


def _moment(session: BuildSession, parameter: str) -> Tensor:
    """C of the layer that a parameter belongs to, on the base."""
    generator = session.generator()
    layer = next(
        (
            name
            for name, layer in generator.architecture.layers.items()
            if layer.parameter == parameter
        ),
        None,
    )
    if layer is None:
        raise PatchError(
            f"{parameter} is the weight of no layer, so that there is no C for a lower rank of it."
        )
    return session.second_moment(generator, layer).matrix


def rebase(
    patches: Sequence[Path | str],
    model: str | Path,
    out: Path | str,
    *,
    spec: Path | str | LoadedSpec | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> list[Patch]:
    """A stack for these patches in this order, written to `out`/patches: some dropped, or moved, or
    on another base.

    Without `spec` the changes are kept as they are (``--keep-deltas``): each patch is told its new
    parent and result, and nothing is solved. With it, each edit is solved on the weights that it
    now stands on; those before which nothing changed are taken as they are.

    Raises
    ------
    PatchError
        A patch does not fit the weights, or is of no edit of the spec.
    FileError
        Something else lies at `out`.
    """
    stack = [read_patch(Path(path)) for path in patches]
    checkpoint = read_checkpoint(weights_path(str(model), Path()))
    made = (
        _told(stack, checkpoint)
        if spec is None
        else _solved_again(stack, checkpoint, spec, device, progress)
    )
    folder = BuildFolder.prepare(
        Path(out), [f"{n:02d}-{patch.name}.safetensors" for n, patch in enumerate(made, 1)]
    )
    for number, patch in enumerate(made):
        folder.keep(folder.patch(number), patch.to_bytes())
    entries = [
        {"name": p.name, "digest": p.metadata["content"], "result": p.metadata["result"]}
        for p in made
    ]
    folder.finish(entries, rules=False)
    return made


def _told(stack: Sequence[Patch], checkpoint: Checkpoint) -> list[Patch]:
    """The same changes with new parents and results."""
    base = parent = checkpoint.digest()
    made = []
    for patch, result in zip(stack, stack_results(checkpoint.generator, stack), strict=True):
        left_out = ("content", "format", "version", "layouts")
        said = {name: value for name, value in patch.metadata.items() if name not in left_out}
        said |= {"base": base, "parent": parent, "result": result}
        layouts = patch.metadata["layouts"]
        made.append(make_patch(patch.directions, patch.coefficients, layouts, said, patch.deltas))
        parent = result
    return made


def _solved_again(
    stack: Sequence[Patch],
    checkpoint: Checkpoint,
    spec: Path | str | LoadedSpec,
    device: str,
    progress: ProgressCallback,
) -> list[Patch]:
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    edits = {edit.name: edit for edit in loaded.spec.edits}
    strangers = [patch.name for patch in stack if patch.name not in edits]
    if strangers:
        raise PatchError(
            f"The spec has no edits {', '.join(strangers)}.",
            "Give the spec of these patches, or --keep-deltas.",
        )
    chosen = loaded.spec.model_copy(update={"edits": [edits[patch.name] for patch in stack]})
    session = BuildSession.of(replace(loaded, spec=chosen), device, progress)
    if session.base != checkpoint.digest():
        session = replace(session, checkpoint=checkpoint, base=checkpoint.digest(), lock=None)
        session.steps = [replace(step, status="changed") for step in session.steps]
    return [session.edit(number).patch for number in range(len(stack))]


def diff(first: Path | str, second: Path | str) -> dict[str, Any]:
    """What differs between two patches, two stacks (folders of a build) or two files of weights, as
    plain values.

    Of patches and stacks: the edits that only one has (``added``, ``removed``), and of each that
    both have whether it is the same, and how far the changes are apart: ``difference`` relative to
    the first, ``cosine``, ``angle`` (the largest principal angle of D in radians). Of weights:
    ``equal`` tensors, those that only one has, and of each other the relative ``difference`` and
    the leading singular values of the change (``spectrum``).
    """
    stacks = [_as_stack(Path(path)) for path in (first, second)]
    if stacks[0] is not None and stacks[1] is not None:
        return _stack_diff(stacks[0], stacks[1])
    if stacks[0] is not None or stacks[1] is not None:
        raise PatchError(
            f"{first} and {second} are of different kinds.",
            "Give two patches, two folders, or two weights.",
        )
    before, after = (
        read_checkpoint(weights_path(str(path), Path())).generator for path in (first, second)
    )
    return {"kind": "weights"} | _weights_diff(before, after)


def _as_stack(path: Path) -> list[Patch] | None:
    """The patches at a path; None where weights lie there."""
    if path.is_dir() and (path / "patches").is_dir():
        return [read_patch(file) for file in sorted((path / "patches").glob("*.safetensors"))]
    if path.suffix == ".safetensors" and path.is_file():
        header = read_header(path)
        if read_editspec_metadata(header, path).get("format") == FORMAT:
            return [read_patch(path)]
    return None


def _stack_diff(first: Sequence[Patch], second: Sequence[Patch]) -> dict[str, Any]:
    one = len(first) == len(second) == 1
    before = {"" if one else patch.name: patch for patch in first}
    after = {"" if one else patch.name: patch for patch in second}
    entries = [
        {"name": before[name].name, **_patch_diff(before[name], after[name])}
        for name in before
        if name in after
    ]
    return {
        "kind": "patch" if one else "stack",
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "edits": entries,
        "same": list(before) == list(after) and all(entry["identical"] for entry in entries),
    }


def _patch_diff(first: Patch, second: Patch) -> dict[str, Any]:
    said = {
        name: [first.metadata.get(name), second.metadata.get(name)]
        for name in sorted({*first.metadata, *second.metadata})
        if first.metadata.get(name) != second.metadata.get(name)
        and name not in ("content", "collateral")
    }
    parameters: dict[str, Any] = {}
    for name in sorted({*first.parameters, *second.parameters}):
        if name not in first.parameters or name not in second.parameters:
            parameters[name] = {"only": "first" if name in first.parameters else "second"}
            continue
        change, other = unfolded(first.delta(name)), unfolded(second.delta(name))
        plain = torch.eye(change.shape[1], dtype=torch.float64)
        cosines = principal_cosines(row_space(first, name), row_space(second, name))
        parameters[name] = {
            "difference": norm(change - other, plain) / max(norm(change, plain), 1e-300),
            "cosine": cosine(change, other, plain),
            "angle": float(torch.arccos(cosines[-1])) if len(cosines) else 0.0,
        }
    return {
        "identical": first.to_bytes() == second.to_bytes(),
        "metadata": said,
        "parameters": parameters,
    }


def _weights_diff(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Any]:
    shared = sorted(set(before) & set(after))
    changed = {}
    for name in shared:
        if before[name].shape != after[name].shape or before[name].dtype != after[name].dtype:
            changed[name] = {"shapes": [list(before[name].shape), list(after[name].shape)]}
        elif tensor_digest(before[name]) != tensor_digest(after[name]):
            changed[name] = _spectrum(
                after[name].double() - before[name].double(), before[name].double()
            )
    return {
        "equal": len(shared) - len(changed),
        "added": sorted(set(after) - set(before)),
        "removed": sorted(set(before) - set(after)),
        "changed": changed,
        "same": not changed and set(before) == set(after),
    }


def _spectrum(change: Tensor, weight: Tensor) -> dict[str, Any]:
    """How large a change is, and the singular values of its matrix [out * kh * kw, in], relative to
    the largest.
    """
    values = torch.linalg.svdvals(unfolded(change) if change.ndim > 1 else change.reshape(1, -1))
    size = float(weight.norm())
    return {
        "difference": float(change.norm()) / size if size else float(change.norm()),
        "rank": int((values > values[0] * 1e-4).sum()),
        "largest": float(values[0]),
        "spectrum": [float(value / values[0]) for value in values[:SINGULAR_VALUES]],
    }


def picture_of(
    first: Path | str, second: Path | str, out: Path, model: str | None, count: int = 8
) -> None:
    """Images as two sides of a `diff` draw them, `first` above `second`; patches are applied to
    `model`.

    Raises `PatchError` where patches are given and no model, `WeightsError` where it is of no
    family.
    """
    require_free_picture(out)
    images = []
    for path in (first, second):
        stack = _as_stack(Path(path))
        if stack is not None and model is None:
            raise PatchError("Patches draw nothing by themselves.", "Give --model BASE.")
        place = weights_path(str(path) if stack is None else str(model), Path())
        checkpoint = read_checkpoint(place)
        if stack is not None:
            require_chain(checkpoint.digest(), stack)
            checkpoint = checkpoint.with_generator(apply_stack(checkpoint.generator, stack), {})
        images.append(drawn_by(checkpoint, place, count))
    write(out, png_bytes(before_and_after(images[0], images[1], labels=("A", "B"))))


def audit(base: str | Path, edited: str | Path, patches: Sequence[Path | str]) -> dict[str, Any]:
    """Whether the difference of two checkpoints is what the given patches make, as plain values.

    ``explained``: applying the patches to `base` gives `edited` bit for bit. ``unexplained``: for
    each tensor that they leave otherwise, how far (``difference``, relative), and the spectrum of
    what is left: a few singular values are another low-rank edit, many are training. ``untouched``:
    the two are the same weights.
    """
    before, after = (read_checkpoint(weights_path(str(path), Path())) for path in (base, edited))
    stack = [read_patch(Path(path)) for path in patches]
    require_chain(before.digest(), stack)
    found = _weights_diff(apply_stack(before.generator, stack), after.generator)
    return {
        "explained": found["same"],
        "untouched": before.digest() == after.digest(),
        "base": before.digest(),
        "edited": after.digest(),
        "patches": [patch.name for patch in stack],
        "unexplained": found["changed"],
        "added": found["added"],
        "removed": found["removed"],
    }


def as_text(found: dict[str, Any]) -> str:
    """What `diff` or `audit` found, for people."""
    lines = []
    if "explained" in found:
        names = ", ".join(found["patches"]) or "no patch"
        verdict = "explained" if found["explained"] else "NOT explained"
        lines.append(f"{found['base'][:12]} -> {found['edited'][:12]}: {verdict} by {names}")
        if found["untouched"]:
            lines.append("the edited weights are the base itself")
    lines += [f"+ {name}" for name in found["added"]] + [f"- {name}" for name in found["removed"]]
    for edit in found.get("edits", []):
        lines.append(f"{edit['name']}: {'the same' if edit['identical'] else 'differs'}")
        lines += [
            f"  {name}: {_short(was)} -> {_short(now)}"
            for name, (was, now) in edit["metadata"].items()
        ]
        for name, numbers in edit["parameters"].items():
            told = (
                f"{key} {value if isinstance(value, str) else f'{value:.3g}'}"
                for key, value in numbers.items()
            )
            if not edit["identical"]:
                lines.append(f"  {name}: {'  '.join(told)}")
    for name, numbers in found.get("changed", found.get("unexplained", {})).items():
        if "shapes" in numbers:
            lines.append(f"{name}: {numbers['shapes'][0]} -> {numbers['shapes'][1]}")
            continue
        values = " ".join(f"{value:.2g}" for value in numbers["spectrum"][:8])
        lines.append(
            f"{name}: differs by {numbers['difference']:.2e} of its norm, rank {numbers['rank']}, "
            f"singular values {numbers['largest']:.3g} x ({values})"
        )
    if found.get("same"):
        lines.append("no difference")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
