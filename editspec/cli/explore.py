"""Commands that explore: sample, render, search, blame, bisect, studio, sweep, tune and more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import editspec
from editspec.cli.command import Work, of_a_model, of_a_server, of_workers
from editspec.cli.options import (
    ContactSheet,
    Device,
    EditName,
    Family,
    Latent,
    Layers,
    Module,
    OutFolder,
    OutPicture,
    Patches,
    Prompt,
    SpecArgument,
    Text,
)
from editspec.engine.result import CommandResult
from editspec.worlds.registry import DEFAULT_WEIGHTS
from editspec_compiler import SpecError
from editspec_compiler.document import parse
from editspec_runtime.errors import UsageError
from editspec_runtime.modalities.image.streams import REPORTS, SPECS


@of_a_model
def sample(
    work: Work,
    model: Annotated[
        str, typer.Argument(metavar="MODEL|SPEC", help="builtin:skyline, a checkpoint, or a spec.")
    ],
    out: OutPicture,
    first: Annotated[
        int,
        typer.Option(
            "--first", metavar="N", min=0, max=10**9, help="The number of the first latent."
        ),
    ] = 0,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=1, max=1024, help="How many images.")
    ] = 64,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, max=2**32 - 1, help="The stream; default: the spec's."
        ),
    ] = None,
    family: Family = None,
    module: Module = None,
) -> CommandResult:
    """Draw the images of a model, numbered as specs name them."""
    return editspec.sample(
        model, out, first=first, count=count, seed=seed, family=family, module=module, **work
    )


@of_a_model
def render(
    work: Work,
    spec: SpecArgument,
    out: OutPicture,
    value: Annotated[
        bool, typer.Option("--value", help="Draw what each edit's value shows alone.")
    ] = False,
    key: Annotated[
        bool, typer.Option("--key", help="Show where the key of each edit's context matches.")
    ] = False,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=1, max=256, help="How many images.")
    ] = 16,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Their latent stream.")
    ] = REPORTS,
) -> CommandResult:
    """Draw images before and after the edits of a spec.

    Or what its edits are made of: the values, or where the keys match.
    """
    return editspec.render(spec, out, value=value, key=key, count=count, seed=seed, **work)


@of_workers
def search(
    work: Work,
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="A spec; or a selection, as below.")
    ] = None,
    edit: EditName = None,
    latent: Annotated[
        int | None, typer.Option("--latent", min=0, metavar="N", help="An image of the stream.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option("--mask", metavar="MASK", help="A file, or {box: [...]}.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", metavar="LAYER", help="The layer whose keys count.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="WEIGHTS", help="Without SPEC.")
    ] = DEFAULT_WEIGHTS,
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="NAME", help="Without SPEC; default: found by names."),
    ] = None,
    module: Module = None,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Without SPEC: the stream."),
    ] = SPECS,
    images: Annotated[
        int, typer.Option("--images", metavar="N", min=1, help="How many images are searched.")
    ] = 1000,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=1, max=256, help="How many matches.")
    ] = 12,
    out: ContactSheet = None,
) -> CommandResult:
    """Find the images that match a selection best.

    They are printed as entries of a context.
    """
    return editspec.search(
        spec,
        edit=edit,
        latent=latent,
        mask=mask,
        layer=layer,
        model=model,
        family=family,
        module=module,
        seed=seed,
        images=images,
        count=count,
        out=out,
        **work,
    )


@of_workers
def compare_layers(
    work: Work,
    spec: SpecArgument,
    edit: EditName = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            metavar="N",
            min=2,
            help="How many images stand for everything; default: 100.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT.png", help="Of texts: a picture of the traces."),
    ] = None,
) -> CommandResult:
    """Compare how well layers tell a selection from all else.

    Or which layers of a language model hold a fact.
    """
    return editspec.compare_layers(spec, edit=edit, images=images, out=out, **work)


@of_a_model
def blame(
    work: Work,
    spec: SpecArgument,
    out: OutFolder,
    latent: Latent = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", metavar="MASK", help="A file, or {box: [...]}; default: the whole image."
        ),
    ] = None,
    prompt: Prompt = None,
    text: Text = None,
    patches: Patches = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", min=0, max=2**32 - 1, help="Of sampled orders, from 9 edits."
        ),
    ] = 0,
) -> CommandResult:
    """Share out a change in an image or an answer among the edits.

    The shares are printed, and drawn in DIR.
    """
    return editspec.blame(
        spec,
        out,
        latent=latent,
        mask=mask,
        prompt=prompt,
        text=text,
        patches=patches,
        seed=seed,
        **work,
    )


@of_a_model
def bisect(
    work: Work,
    spec: SpecArgument,
    measure: Annotated[
        str,
        typer.Option(
            "--measure",
            metavar="NAME",
            help="trace, collateral; probability, divergence; or a check of texts.",
        ),
    ],
    latent: Latent = None,
    prompt: Prompt = None,
    text: Text = None,
    edit: Annotated[
        str | None, typer.Option("--edit", metavar="NAME", help="The edit that a check is about.")
    ] = None,
    at_most: Annotated[
        float | None,
        typer.Option(
            "--at-most", min=0, metavar="X", help="The bound; of an image, 0.1 is visible."
        ),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option("--at-least", min=0, metavar="X", help="The bound from below, of texts."),
    ] = None,
    patches: Patches = None,
) -> CommandResult:
    """Find the edit after which an image or answer is worse."""
    return editspec.bisect(
        spec,
        measure=measure,
        latent=latent,
        prompt=prompt,
        text=text,
        edit=edit,
        at_most=at_most,
        at_least=at_least,
        patches=patches,
        **work,
    )


@of_a_server
def studio(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="A spec, new or not; default: edits.yaml here."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="WEIGHTS", help="Of a new spec; default: builtin:skyline."),
    ] = None,
    module: Module = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            help="Where to listen; 0: any port that is free.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Listen on the network, too: whoever has the URL may edit.",
        ),
    ] = "127.0.0.1",
    open: Annotated[bool, typer.Option("--open", help="Open the URL in the browser, too.")] = False,
    device: Device = "auto",
) -> None:
    """Edit a spec in the browser by copy, paste and context.

    Prints the URL to open.
    """
    editspec.studio(
        spec, model=model, module=module, port=port, host=host, device=device, open=open
    )


@of_workers
def sweep(
    work: Work,
    spec: SpecArgument,
    out: OutFolder,
    layers: Layers = "",
    ranks: Annotated[str, typer.Option("--ranks", metavar="R,R,…", help="Ranks to try.")] = "",
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", metavar="NAME", help="Judge by a perfect edit of the bench."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", metavar="N", min=8, help="How many images judge (200)."),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="FIELD=V,V,…",
            help="Values of another field, such as solver.collateral_weight=0.05,0.2.",
        ),
    ] = None,
) -> CommandResult:
    """Build the last edit at several layers, ranks and more."""
    return editspec.sweep(
        spec,
        out,
        layers=[layer for layer in layers.split(",") if layer],
        ranks=_parse_ranks(ranks),
        experiment=experiment,
        images=images,
        vary=_parse_choices(vary or []),
        **work,
    )


@of_workers
def tune(
    work: Work,
    spec: SpecArgument,
    out: OutFolder,
    edit: EditName = None,
    layers: Layers = "",
    rounds: Annotated[
        int,
        typer.Option("--rounds", metavar="N", min=0, max=20, help="The most rounds."),
    ] = 4,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            metavar="N",
            min=16,
            max=10_000,
            help="How many are looked through (256); a quarter judge.",
        ),
    ] = None,
) -> CommandResult:
    """Find the fields of an edit by trials.

    Of images, also further examples, and what it has to preserve.
    """
    return editspec.tune(
        spec,
        out,
        edit=edit,
        layers=[layer for layer in layers.split(",") if layer],
        rounds=rounds,
        images=images,
        **work,
    )


def _parse_choices(given: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each field. Raises `UsageError` for what is no field with values."""
    found: dict[str, list[Any]] = {}
    for each in given:
        field, _, text = each.partition("=")
        try:
            values = parse(f"values: [{text}]", "--vary").data["values"]
        except SpecError:
            values = []
        if not field or not values:
            raise UsageError(
                f"--vary takes a field, = and values with commas between; found {each}.",
                "Give it as solver.collateral_weight=0.05,0.2.",
            )
        found[field] = values
    return found


def _parse_ranks(given: str) -> list[int]:
    """The whole numbers of a list with commas. Raises `UsageError` for anything else."""
    try:
        numbers = [int(number) for number in given.split(",") if number]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise UsageError(
            f"--ranks takes whole numbers from 1 with commas between; found {given}.",
            "Give ranks as in --ranks 1,2,4.",
        )
    return numbers
