"""Commands on patches: verify, sign, card, push, apply, compose, rebase, diff, adopt, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.command import Progress, Work, of_a_model, of_files
from editspec.cli.options import Base, Family, OutFolder, StackArguments, TrustConfig
from editspec.engine.result import CommandResult
from editspec_runtime.errors import UsageError


@of_a_model
def verify(
    work: Work,
    patches: StackArguments,
    model: Base,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="Build again from it and compare.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", metavar="PEM", help="The build folder must be signed by this key."
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="WHO",
            help="It must be signed by this address, without a key; with --issuer.",
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", metavar="URL", help="This service must vouch for the identity."),
    ] = None,
    trust_config: TrustConfig = None,
) -> CommandResult:
    """Verify the digests of a stack of patches.

    With --spec, solves each patch again and compares.
    """
    return editspec.verify(
        model,
        patches,
        spec,
        public_key=public_key,
        identity=identity,
        issuer=issuer,
        trust_config=trust_config,
        **work,
    )


@of_files
def sign(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a build with --provenance.")
    ],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PEM", help="A private key of an elliptic curve."),
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign with the identity of this CI job, or your own.")
    ] = False,
    trust_config: TrustConfig = None,
) -> CommandResult:
    """Sign the patches and the provenance of a build.

    Writes DIR/model.sig. Give --key or --keyless.
    """
    return editspec.sign(folder, key, keyless=keyless, trust_config=trust_config)


@of_a_model
def card(
    work: Work,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a build.")],
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help="For checks, pictures and the licence."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", metavar="NAME", help="Where nothing beside the base says it."),
    ] = None,
) -> CommandResult:
    """Write a model card for a build.

    It is DIR/README.md, with a head that the Hugging Face hub reads.
    """
    return editspec.card(folder, spec=spec, licence=licence, **work)


@of_files
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a build.")],
    repository: Annotated[
        str,
        typer.Argument(metavar="hf://ORG/REPO", help="Where it goes; with @BRANCH, if not main."),
    ],
) -> CommandResult:
    """Push a build to the Hugging Face hub.

    Patches, manifest, card, picture, licence and signature, and nothing else of the folder. A
    repository that is not there is made, and is private.
    """
    return editspec.push(folder, repository)


@of_files
def apply(
    patches: StackArguments,
    model: Base,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="A file as BASE, or as its ending says (.safetensors, .pt); for shards, a folder.",
        ),
    ] = None,
    only_generator: Annotated[
        bool, typer.Option("--only-generator", help="Write the tensors of the generator alone.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would change.")
    ] = False,
    scale: Annotated[
        float,
        typer.Option(
            "--scale", metavar="X", help="Multiply the change; no patch names the result."
        ),
    ] = 1.0,
) -> CommandResult:
    """Apply a stack of patches to its base weights."""
    if out is None and not dry_run:
        raise UsageError("Nothing says where the weights go.", "Give -o OUT, or --dry-run.")
    return editspec.apply(
        model, patches, out, only_generator=only_generator, dry_run=dry_run, scale=scale
    )


@of_a_model
def compose(
    work: Work,
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="Patches that follow one another.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="ONE", help="Where the one patch goes.")
    ],
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="N", min=1, help="Approximate at this rank, best under C."),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help="With --rank: the spec that C is of."),
    ] = None,
) -> CommandResult:
    """Make one patch of a stack."""
    return editspec.compose(patches, out, rank=rank, spec=spec, **work)


@of_a_model
def rebase(
    work: Work,
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="The stack as it is to be.")
    ],
    model: Base,
    out: OutFolder,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="Solve again from it.")
    ] = None,
    keep_deltas: Annotated[
        bool, typer.Option("--keep-deltas", help="Rewrite parents, solve nothing.")
    ] = False,
) -> CommandResult:
    """Make a stack valid in a new order or on a new base.

    Writes DIR/patches.
    """
    return editspec.rebase(patches, model, out, spec=spec, keep_deltas=keep_deltas, **work)


@of_files
def diff(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="A patch, the folder of a build, or weights.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="OUT.png", help="Images of A and of B.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="BASE", help="For pictures of patches.")
    ] = None,
) -> CommandResult:
    """Show how two patches, stacks or checkpoints differ."""
    return editspec.diff(first, second, picture=picture, model=model)


@of_files
def adopt(
    work: Progress,
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The weights before.")],
    edited: Annotated[str, typer.Option("--edited", metavar="EDITED", help="The weights after.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PATCH", help="Where the patch goes.")
    ],
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="N", min=1, help="The nearest change of this rank."),
    ] = None,
    family: Family = None,
) -> CommandResult:
    """Make a patch of what another tool changed.

    Without --rank it holds the whole change, to the last bit.
    """
    return editspec.adopt(base, edited, out, rank=rank, family=family, **work)


@of_files
def audit(
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The weights before.")],
    edited: Annotated[str, typer.Option("--edited", metavar="EDITED", help="The weights after.")],
    patches: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATCH...]", help="Patches that may explain it.")
    ] = None,
) -> CommandResult:
    """Test whether patches explain how two checkpoints differ.

    Exits with 1 where they do not.
    """
    return editspec.audit(base, edited, patches or ())
