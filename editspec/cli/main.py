"""The command line. Parses, prints, and turns errors into exit codes; no `--help` and no `validate`
imports torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from editspec_compiler.problems import Problem, SpecError
from editspec_runtime.errors import MORE_MEMORY, EditError, UsageError, is_out_of_memory

EXIT_FAILED, EXIT_WRONG_USE, EXIT_TO_BUILD, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="editspec",
    help="Compile small edit specs into weight patches for generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

bench = typer.Typer(
    name="bench",
    help="Measure methods where the perfect edit is known.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(bench)

ci = typer.Typer(
    name="ci",
    help="What continuous integration does with specs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(ci)

SpecArguments = Annotated[
    list[Path], typer.Argument(metavar="SPEC...", help="Edit specs, below the working folder.")
]
SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The edit spec, YAML or JSON.")]
OutFolder = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The output folder.")]


def _allowing(context: typer.Context, allowed: bool) -> None:
    if allowed:
        from editspec_runtime.families.torch_module.source import allow_code

        context.with_resource(allow_code())


AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Import model.module, which runs code of others.", callback=_allowing
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Where to compute.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores.")
]
Family = Annotated[
    str | None,
    typer.Option(
        "--family", metavar="NAME", help="What the weights are; default: found by their names."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
JUnit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the checks as JUnit XML.")
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write the checks as Markdown.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def validate(
    specs: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC...", help="Edit specs, YAML or JSON; or their locks."),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check specs and everything that they name, and whether their locks are of them; or locks
    alone.
    """
    found, failed = [], list[SpecError | EditError]()
    with _errors(as_json, debug):
        for spec in specs:
            try:
                found.append(_validated(spec))
            except (SpecError, EditError) as error:
                if len(specs) == 1:
                    raise
                failed.append(error)
        if len(specs) == 1:
            _answer(found[0][0], as_json, found[0][1])
        elif not failed:
            answers = [
                {"spec": str(spec), **content}
                for spec, (content, _) in zip(specs, found, strict=True)
            ]
            _answer(
                {"valid": True, "specs": answers}, as_json, "\n".join(text for _, text in found)
            )
    if failed:
        code = (
            EXIT_WRONG_USE if any(isinstance(error, SpecError) for error in failed) else EXIT_FAILED
        )
        errors = [_error_json(error) for error in failed]
        _fail(
            "\n".join(_error_text(error) for error in failed),
            {"error": {"specs": errors}},
            as_json,
            code,
        )


def _validated(spec: Path) -> tuple[dict[str, Any], str]:
    """What `validate` says of one file, as plain values and for people."""
    from editspec.engine.lock import input_changes, lock_path, read_lock
    from editspec_compiler import load

    if spec.suffix == ".lock" and (alone := read_lock(spec)):
        return {"valid": True}, f"{spec}: the lock of {len(alone.edits)} edits, no problems"
    loaded = load(spec)
    lock = read_lock(lock_path(spec))
    # The weights may be large: whether they are those of the lock, plan and build tell.
    changes = input_changes(loaded, lock.weights, lock) if lock is not None else None
    edits = [{"name": e.name, "layer": e.layer, "rank": e.rank_limit} for e in loaded.spec.edits]
    checks = [check.name or check.measure for check in loaded.spec.checks]
    counted = f"{len(edits)} edits" + (f", {len(checks)} checks" if checks else "")
    lines = [f"{spec}: {counted}, no problems"]
    if changes:
        lines += [f"{lock_path(spec)} is out of date:", *(f"  {change}" for change in changes)]
    return {"valid": True, "edits": edits, "checks": checks, "lock": changes}, "\n".join(lines)


@app.command(name="compile")
def compile_(
    spec: SpecArgument,
    out: OutFolder,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Resolve every edit into the tensors of a rule: DIR/rules/NN-name.safetensors."""
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands.compile import compile as compile_

        rules = compile_(spec, out, device=device, progress=progress)
        entries = [
            {
                "name": rule.edit,
                "layer": rule.layer,
                "rank": rule.rank,
                "context_keys": len(rule.context_keys),
                "region": rule.provenance["region"],
            }
            for rule in rules
        ]
        lines = [
            f"{e['name']}: {e['layer']}, {e['context_keys']} context keys, rank {e['rank']}"
            for e in entries
        ]
        _answer({"edits": entries}, as_json, "\n".join(lines))


@app.command()
def build(
    spec: SpecArgument,
    out: OutFolder,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Obey SPEC.lock: fail where an input has changed.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Then check; exit with 1 where a check fails.")
    ] = False,
    junit: JUnit = None,
    markdown: Markdown = None,
    page: Annotated[
        bool, typer.Option("--report", help="Show it all on one page: DIR/report.html.")
    ] = False,
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance",
            help="Say of what it was made, for in-toto and SLSA: DIR/provenance.json.",
        ),
    ] = False,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto",
            help="Show the choice of collateral_weight: DIR/pareto.json and DIR/pareto.png.",
        ),
    ] = False,
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            metavar="[NAME=]N",
            help="First write the collateral_weight of point N of it into the spec.",
        ),
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build every edit's patch: DIR/rules, DIR/patches and DIR/manifest.json; and SPEC.lock."""
    if (junit or markdown) and not check:
        raise typer.BadParameter("--junit and --markdown belong to --check")
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import check as checks
        from editspec.commands.build import build as build_
        from editspec.engine.folder import PARETO, REPORT, STATEMENT

        pareto = pareto or pick is not None
        reports = checks.Reports(junit, markdown)
        reports.require_places()
        built = build_(
            spec,
            out,
            frozen=frozen,
            page=page,
            provenance=provenance,
            pareto=pareto,
            pick=pick,
            device=device,
            progress=progress,
        )
        entries = [
            {
                "name": edit.rule.edit,
                "status": edit.status,
                "layer": edit.rule.layer,
                "rank": edit.rule.rank,
                "loss": edit.loss,
                "residual": edit.residual,
                "patch": str(edit.path),
                "digest": edit.patch.metadata["content"],
                "result": edit.patch.metadata["result"],
                "collateral": edit.patch.metadata["collateral"],
                "seconds": edit.seconds,
            }
            for edit in built
        ]
        lines = [_built_line(entry) for entry in entries]
        told = {"report": str(out / REPORT)} if page else {}
        told |= {"provenance": str(out / STATEMENT)} if provenance else {}
        told |= {"pareto": str(out / PARETO[0])} if pareto else {}
        lines += [f"{what}: {path}" for what, path in told.items()]
        if pareto:
            from editspec.engine.pareto import as_text

            lines += [as_text(json.loads((out / PARETO[0]).read_text())["curves"])]
        content: dict[str, Any] = {"edits": entries, **told}
        if check:
            content |= checks.check(spec, out, device=device, progress=progress)
            reports.write(content, spec)
            lines += ["", checks.as_text(content, **_terminal())]
        _answer(content, as_json, "\n".join(lines))
    if check and not content["passed"]:
        raise typer.Exit(EXIT_FAILED)


def _built_line(entry: dict[str, Any]) -> str:
    """What `build` says of an edit: of several layers, the largest collateral."""
    rank = "full rank" if entry["rank"] is None else f"rank {entry['rank']}"
    collateral = max((layer["correlated"] for layer in entry["collateral"].values()), default=0.0)
    line = f"{entry['name']}: {entry['status']}, {entry['layer']}, {rank}, loss {entry['loss']:.4f}"
    line += "" if entry["residual"] is None else f", residual {entry['residual']:.2g}"
    line += f", collateral {collateral:.2g}"
    return f"{line}, {entry['patch']}"


@app.command()
def check(
    spec: SpecArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="The folder of the build.")
    ] = None,
    junit: JUnit = None,
    markdown: Markdown = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what the checks of a spec ask for; exit with 1 where one of severity error fails."""
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import check as checks

        reports = checks.Reports(junit, markdown)
        reports.require_places()
        found = checks.check(spec, out, device=device, progress=progress)
        reports.write(found, spec)
        _answer(found, as_json, checks.as_text(found, **_terminal()))
    if not found["passed"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def lock(
    spec: SpecArgument,
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing; fail where an input has changed.")
    ] = False,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a spec into the cache and write SPEC.lock: the digests of all that goes in and comes
    out.
    """
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands.lock import check_lock
        from editspec.commands.lock import lock as lock_
        from editspec.engine.lock import lock_path

        made = check_lock(spec) if check else lock_(spec, device=device, progress=progress)
        lines = [f"{edit.name}: patch {edit.patch}" for edit in made.edits]
        _answer({"lock": str(lock_path(spec)), **made.model_dump()}, as_json, "\n".join(lines))


@app.command()
def plan(
    spec: SpecArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="The folder of the build.")
    ] = None,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode",
            help="Exit with 3 where there is something to build, 0 where not.",
        ),
    ] = False,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a build would do, what it costs, and which edits are in each other's way; solves
    nothing.
    """
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import plan as planning

        found = planning.plan(spec, out, device=device, progress=progress)
        _answer(found, as_json, planning.as_text(found))
    if detailed_exitcode and found["to_build"]:
        raise typer.Exit(EXIT_TO_BUILD)


@app.command()
def verify(
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="The whole stack, in order.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="BASE", help="builtin:skyline, or a checkpoint's path."),
    ],
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="Build again from it and compare.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", metavar="PEM", help="The build folder must be signed by this key."
        ),
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check digests, chain, ranks and values of a stack of patches; with SPEC, solve each again and
    compare.
    """
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import verify as verification

        found = verification.verify(
            model, patches, spec, public_key=public_key, device=device, progress=progress
        )
        _answer(found, as_json, verification.as_text(found))
    if not found["verified"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def sign(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a build with --provenance.")
    ],
    key: Annotated[
        Path, typer.Option("--key", metavar="PEM", help="A private key of an elliptic curve.")
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sign the patches and the provenance of a build: DIR/model.sig; verify --public-key verifies
    it.
    """
    with _errors(as_json, debug):
        from editspec.engine.provenance import sign as sign_folder

        signature = sign_folder(folder, key)
        _answer({"signature": str(signature)}, as_json, str(signature))


@app.command()
def apply(
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="The whole stack, in order.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="BASE", help="builtin:skyline, or a checkpoint's path."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="OUT", help="Where the weights go: a file; for shards, a folder."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would change.")
    ] = False,
    scale: Annotated[
        float, typer.Option("--scale", help="Multiply the change; no patch names the result.")
    ] = 1.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Apply a stack of patches to the weights that it was built from, whatever their size."""
    if (out is None) is not dry_run:
        raise typer.BadParameter("give -o OUT, or --dry-run and no OUT")
    with _errors(as_json, debug):
        from editspec.commands.apply import apply as apply_

        applied = apply_(model, patches, out, scale=scale)
        lines = [
            f"{name}: changed by {change:.2e} of its norm"
            for name, change in applied.changed.items()
        ]
        lines.append(f"{out if out else 'dry run'}: weights {applied.result}")
        if scale != 1.0:
            lines.append(f"scaled by {scale:g}: these are not weights that a patch names")
        content = {"out": str(out) if out else None, "digest": applied.result, "base": applied.base}
        named = {"scale": scale, "named_by_patch": scale == 1.0, "changed": applied.changed}
        _answer({**content, **named}, as_json, "\n".join(lines))


@app.command()
def compose(
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="Patches that follow one another.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="ONE", help="Where the one patch goes.")
    ],
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Approximate at this rank, best under C.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="With --rank: whose C it is.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make one patch of a stack."""
    if (rank is None) is not (spec is None):
        raise typer.BadParameter("--rank and --spec belong together: C is that of a spec")
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import stacks

        found = stacks.compose(patches, out, rank=rank, spec=spec, device=device, progress=progress)
        lines = [
            f"{name}: {'full' if part['rank'] is None else 'rank ' + str(part['rank'])}, lost {part['lost']:.2e}"
            for name, part in found["parameters"].items()
        ]
        _answer(found, as_json, "\n".join([*lines, f"{out}: weights {found['result']}"]))


@app.command()
def rebase(
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="The stack as it is to be.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="BASE", help="builtin:skyline, or a checkpoint's path."),
    ],
    out: OutFolder,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="Solve again from it.")
    ] = None,
    keep_deltas: Annotated[
        bool, typer.Option("--keep-deltas", help="Rewrite parents, solve nothing.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a stack of patches that were dropped from, moved, or brought to another base:
    DIR/patches.
    """
    if (spec is not None) is keep_deltas:
        raise typer.BadParameter("give --spec SPEC to solve again, or --keep-deltas")
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import stacks

        made = stacks.rebase(patches, model, out, spec=spec, device=device, progress=progress)
        entries = [
            {name: p.metadata[name] for name in ("name", "content", "parent", "result")}
            for p in made
        ]
        _answer(
            {"patches": entries},
            as_json,
            "\n".join(f"{e['name']}: weights {e['result']}" for e in entries),
        )


@app.command()
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what differs between two patches, two stacks or two files of weights."""
    with _errors(as_json, debug):
        from editspec.commands import stacks

        found = stacks.diff(first, second)
        if picture is not None:
            stacks.picture_of(first, second, picture, model)
        _answer(found, as_json, stacks.as_text(found))


@app.command()
def audit(
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The weights before.")],
    edited: Annotated[str, typer.Option("--edited", metavar="EDITED", help="The weights after.")],
    patches: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATCH...]", help="What should explain it.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether patches explain the difference of two checkpoints; exit code 1 where they do
    not.
    """
    with _errors(as_json, debug):
        from editspec.commands import stacks

        found = stacks.audit(base, edited, patches or [])
        _answer(found, as_json, stacks.as_text(found))
    if not found["explained"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def inspect(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A spec, a rule, a patch or weights.")
    ],
    family: Family = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a file is and what is in it."""
    with _errors(as_json, debug):
        from editspec.commands import inspect as inspection

        found = inspection.inspect(file, family)
        _answer(found, as_json, inspection.as_text(found))


@app.command(name="import")
def import_(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="A record, or a folder of records.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="SPEC", help="The spec; of a folder, a folder of specs."
        ),
    ],
    family: Annotated[str, typer.Option("--family", metavar="NAME", help="What the weights are.")],
    weights: Annotated[
        str, typer.Option("--weights", metavar="WEIGHTS", help="What model.weights is to be.")
    ],
    layer: Annotated[
        str, typer.Option("--layer", metavar="LAYER", help="The layer that the edit changes.")
    ],
    compatibility: Annotated[
        bool,
        typer.Option(
            "--compatibility", help="For the numbers of the authors' code: its quirks, too."
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make specs of edit records that were made in the authors' notebook."""
    with _errors(as_json, debug):
        from editspec.modalities.image import records as exchange

        imported = exchange.import_records(
            record, out, family=family, weights=weights, layer=layer, compatibility=compatibility
        )
        failed = [entry for entry in imported if entry.error]
        entries = [
            {"record": str(e.record), "spec": str(e.spec), "meaning": e.meaning}
            if e.error is None
            else {"record": str(e.record), "error": str(e.error)}
            for e in imported
        ]
        lines = [
            f"{e.record}: {e.error if e.error else f'{e.meaning} -> {e.spec}'}" for e in imported
        ]
        lines += (
            [f"{len(imported) - len(failed)} of {len(imported)} records imported"]
            if record.is_dir()
            else []
        )
        _answer({"records": entries}, as_json, "\n".join(lines))
    if failed:
        raise typer.Exit(EXIT_WRONG_USE)


@app.command()
def export(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC|PATCH...", help="A spec, or patches in their order."),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="record|peft|delta|full",
            help="A record of SPEC, or of PATCH... a LoRA, the changes, the changed parameters.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", help="Where it goes: a file; of peft, a folder."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="BASE", help="For full: what PATCH... start from."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make of a spec an edit record for the authors' notebook, or of patches what other tools
    load.
    """
    if form == "record" and len(files) > 1:
        raise typer.BadParameter("a record is made of one SPEC")
    if (form == "full") is (model is None):
        raise typer.BadParameter("--format full and --model BASE belong together")
    with _errors(as_json, debug):
        if form == "record":
            from editspec.modalities.image import records as exchange

            name = exchange.export_record(files[0], out)
            _answer({"out": str(out), "edit": name}, as_json, f"{out}: {name}")
            return
        if form not in ("peft", "delta", "full"):
            known = "known here: record, peft, delta, full"
            raise SpecError("--format", [Problem(f"there is no format {form}", hint=known)])
        from editspec.commands import export as interop

        if form == "full":
            found = interop.export_full(files, out, str(model))
        else:
            found = (interop.export_peft if form == "peft" else interop.export_delta)(files, out)
        _answer(found, as_json, interop.as_text(found))


@app.command()
def convert(
    weights: Annotated[
        str, typer.Argument(metavar="IN", help="A checkpoint: .pt, .pth, .pkl or .safetensors.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="Where the weights go.")],
    family: Family = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the generator of a checkpoint as safetensors, with the names and the digest that it
    has.
    """
    with _errors(as_json, debug), _progress() as progress:
        from editspec.commands import convert as conversion

        found = conversion.convert(weights, out, family, progress=progress)
        _answer(
            found,
            as_json,
            f"{out}: {found['family']}, {found['tensors']} tensors, weights {found['digest']}",
        )


@app.command()
def render(
    spec: SpecArgument,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT.png", help="Where the picture goes.")
    ],
    value: Annotated[
        bool, typer.Option("--value", help="Draw what each edit's value shows alone.")
    ] = False,
    key: Annotated[
        bool, typer.Option("--key", help="Show where the key of each edit's context matches.")
    ] = False,
    count: Annotated[int, typer.Option("--count", min=1, max=256, help="How many images.")] = 16,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, help="Their latent stream.")
    ] = 3,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Draw images before and after the edits of a spec, or what its edits are made of."""
    if value and key:
        raise typer.BadParameter("give --value or --key, not both")
    with _errors(False, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands.render import render as render_

        show: Literal["edits", "value", "key"] = "value" if value else "key" if key else "edits"
        render_(spec, out, show=show, count=count, seed=seed, device=device, progress=progress)
        typer.echo(str(out))


@app.command()
def search(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="A spec; or say the selection below.")
    ] = None,
    edit: Annotated[
        str | None, typer.Option("--edit", metavar="NAME", help="Which edit; default: the first.")
    ] = None,
    latent: Annotated[
        int | None, typer.Option("--latent", min=0, metavar="N", help="An image of the stream.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option("--mask", metavar="MASK", help="A file, or {box: [...]}.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", metavar="LAYER", help="Whose keys are compared.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="WEIGHTS", help="Without SPEC.")
    ] = "builtin:skyline",
    family: Annotated[
        str, typer.Option("--family", metavar="NAME", help="Without SPEC.")
    ] = "stylegan2",
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, help="Without SPEC: the stream.")
    ] = 1,
    images: Annotated[
        int, typer.Option("--images", min=1, help="How many images are searched.")
    ] = 1000,
    count: Annotated[int, typer.Option("--count", min=1, max=256, help="How many matches.")] = 12,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT.png", help="A contact sheet.")
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the images that match a selection best, as entries of a context and as a contact
    sheet.
    """
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.modalities.image import explore as exploring

        alone = {"--latent": latent, "--mask": mask, "--layer": layer}
        missing = [name for name, value in alone.items() if value is None]
        if spec is None and missing:
            raise SpecError(
                "command line", [Problem(f"without a SPEC, {' and '.join(missing)} must be given")]
            )
        if spec is not None and len(missing) < len(alone):
            raise SpecError(
                "command line",
                [Problem("a SPEC and --latent, --mask or --layer exclude each other")],
            )
        if spec is None:
            selection: Any = exploring.selection_spec(
                family=family,
                weights=model,
                latent=latent or 0,
                mask=mask or "",
                layer=layer or "",
                stream={"seed": seed},
            )
        else:
            selection = spec
        found = exploring.search_images(
            selection, out, edit=edit, images=images, count=count, device=device, progress=progress
        )
        _answer(found, as_json, exploring.entries_text(found))


@app.command()
def layers(
    spec: SpecArgument,
    edit: Annotated[
        str | None, typer.Option("--edit", metavar="NAME", help="Which edit; default: the first.")
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=2, help="How many images stand for everything.")
    ] = 100,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show for every layer how well it tells the selections of an edit from everything else."""
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.modalities.image import explore as exploring

        found = exploring.compare_layers(
            spec, edit=edit, images=images, device=device, progress=progress
        )
        _answer(found, as_json, exploring.layers_text(found))


@app.command()
def statistics(
    spec: SpecArgument,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute and cache the second moment of the keys of every layer that a spec edits."""
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands.statistics import statistics as statistics_
        from editspec_runtime.io.digests import tensor_digest

        entries = [
            {
                "edit": name,
                "layer": layer,
                "channels": len(moment.matrix),
                "cached": moment.cached,
                "digest": tensor_digest(moment.matrix),
            }
            for name, layer, moment in statistics_(spec, device=device, progress=progress)
        ]
        lines = [
            f"{e['edit']}: {e['layer']}, {e['channels']} channels, C {e['digest']}"
            + (", cached" if e["cached"] else "")
            for e in entries
        ]
        _answer({"statistics": entries}, as_json, "\n".join(lines))


@app.command()
def schema(debug: Debug = False) -> None:
    """Print the JSON Schema of the language, for editors."""
    with _errors(False, debug):
        from editspec_compiler.schema import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def families(as_json: Json = False, debug: Debug = False) -> None:
    """List the families of generators, and what each can load."""
    with _errors(as_json, debug):
        from editspec_runtime.families import FAMILIES

        entries = [
            {"name": f.name, "description": f.description, "loads": f.loads}
            for f in FAMILIES.values()
        ]
        lines = [f"{e['name']}: {e['description']}\n  loads {e['loads']}" for e in entries]
        _answer({"families": entries}, as_json, "\n".join(lines))


@app.command()
def studio(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="A spec, new or not; default: edits.yaml here."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="WEIGHTS", help="Of a new spec; default: builtin:skyline."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Where to listen; 0: any port that is free."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Listen on the network, too: whoever has the URL may edit.",
        ),
    ] = "127.0.0.1",
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Copy, paste and choose context in the browser; what is done there is a spec. Prints the URL
    to open.
    """
    with _errors(False, debug):
        _set_threads(threads)
        try:
            from editspec.studio import server
        except ImportError as error:
            raise UsageError(
                f"The studio needs {error.name}.",
                "pip install editspec[studio] installs what it needs.",
            ) from error
        server.serve(
            spec or Path("edits.yaml"),
            model,
            host=host,
            port=port,
            device=device,
            announce=typer.echo,
        )


@app.command()
def sweep(
    spec: SpecArgument,
    out: OutFolder,
    layers: Annotated[str, typer.Option("--layers", metavar="L,L,…", help="Layers to try.")] = "",
    ranks: Annotated[str, typer.Option("--ranks", metavar="R,R,…", help="Ranks to try.")] = "",
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", metavar="NAME", help="Judge by a perfect edit of the bench."),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=8, help="How many images judge.")] = 200,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build the last edit at several layers and ranks; a table, a picture, and the best of them as
    a spec.
    """
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        numbers = _numbers(ranks)
        from editspec.commands import sweep as sweeping

        names = [layer for layer in layers.split(",") if layer]
        result = sweeping.sweep(
            spec,
            out,
            layers=names,
            ranks=numbers,
            experiment=experiment,
            images=images,
            device=device,
            progress=progress,
        )
        _answer(result, as_json, sweeping.markdown(result))


def _numbers(given: str) -> list[int]:
    try:
        numbers = [int(number) for number in given.split(",") if number]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise UsageError(
            f"--ranks takes whole numbers from 1 with commas between, such as 1,2,4; found {given}."
        )
    return numbers


@bench.command()
def paper(
    out: OutFolder,
    images: Annotated[
        int, typer.Option("--images", min=8, help="How many images a row is measured on.")
    ] = 10_000,
    backbone: Annotated[
        Path | None,
        typer.Option("--backbone", metavar="FILE", help="Other features, saved by torch.export."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the paper's tables on Skyline: bench.json, bench.md and pictures in DIR. Interrupted,
    it goes on.
    """
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.worlds.skyline.bench import run, tables

        result = run.paper(out, images=images, backbone=backbone, device=device, progress=progress)
        _answer(result, as_json, tables.markdown(result))


@ci.command()
def review(
    specs: SpecArguments,
    out: OutFolder,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="REVISION", help="Say what has changed since its locks."),
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Validate, plan, build, check and draw specs: DIR/summary.md, and a folder for each."""
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import ci as integration

        found = integration.review(specs, out, base=base, device=device, progress=progress)
        _answer(found, as_json, _summary(out))
    _leave(found["status"])


@ci.command(name="apply")
def apply_merged(
    specs: SpecArguments,
    out: OutFolder,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build and check specs, and apply those that pass: DIR/summary.md, and a folder for each."""
    with _errors(as_json, debug), _progress() as progress:
        _set_threads(threads)
        from editspec.commands import ci as integration

        found = integration.apply(specs, out, device=device, progress=progress)
        _answer(found, as_json, _summary(out))
    _leave(found["status"])


def _summary(out: Path) -> str:
    return (out / "summary.md").read_text().rstrip()


def _leave(status: str) -> None:
    """Exit as the worst of several specs would alone."""
    if status != "passed":
        raise typer.Exit(EXIT_WRONG_USE if status == "wrong" else EXIT_FAILED)


def main() -> None:
    """The entry point of the ``editspec`` command: of several processes, the first runs it, and the
    others help.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        app()
    from editspec_runtime.executors import processes as distributed

    if os.environ.get("RANK", "0") != "0":
        sys.exit(distributed.help_out())
    try:
        with _errors("--json" in sys.argv, "--debug" in sys.argv), distributed.leading():
            app()
    except typer.Exit as end:  # the processes did not meet, and so no command ran
        sys.exit(end.exit_code)


@contextmanager
def _errors(as_json: bool, debug: bool) -> Iterator[None]:
    """Print errors as people can use them, and leave with the exit code that names their kind."""
    try:
        yield
    except SpecError as error:
        if debug:
            raise
        _fail(_error_text(error), {"error": _error_json(error)}, as_json, EXIT_WRONG_USE)
    except EditError as error:
        if debug:
            raise
        code = EXIT_WRONG_USE if isinstance(error, UsageError) else EXIT_FAILED
        _fail(_error_text(error), {"error": _error_json(error)}, as_json, code)
    except KeyboardInterrupt:
        _fail("interrupted", {"error": {"message": "interrupted"}}, as_json, EXIT_INTERRUPTED)
    except OSError as error:
        if debug:
            raise
        _fail(f"error: {error}", {"error": {"message": str(error)}}, as_json, EXIT_FAILED)
    except Exception as error:
        if debug or isinstance(error, (typer.Exit, typer.Abort)):
            raise
        if is_out_of_memory(error):
            content = {"message": "This does not fit into memory.", "hint": MORE_MEMORY}
            _fail(
                f"error: {content['message']}\n  {MORE_MEMORY}",
                {"error": content},
                as_json,
                EXIT_FAILED,
            )
        message = f"{type(error).__name__}: {error}"
        text = f"error: {message}\n  This is a defect of editspec; --debug shows where. Please report it."
        _fail(text, {"error": {"message": message}}, as_json, EXIT_FAILED)


def _error_text(error: SpecError | EditError) -> str:
    return str(error) if isinstance(error, SpecError) else f"error: {error}"


def _error_json(error: SpecError | EditError) -> dict[str, Any]:
    if isinstance(error, SpecError):
        return error.as_json()
    return {"message": error.message, "hint": error.hint}


def _fail(text: str, content: dict[str, Any], as_json: bool, code: int) -> None:
    typer.echo(text, err=True)
    if as_json:
        typer.echo(json.dumps(content))
    raise typer.Exit(code)


def _answer(content: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(content) if as_json else text)


def _terminal() -> dict[str, Any]:
    """How wide a table may be, and whether it is coloured: a pipe takes long lines and no
    colours.
    """
    if not sys.stdout.isatty():
        return {}
    import shutil

    return {"width": shutil.get_terminal_size().columns, "colours": True}


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A report that draws bars on a terminal, and elsewhere writes a plain line now and then; to
    stderr.
    """
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield progress


def _plain_lines(seconds: float = 5.0) -> Callable[[str, int, int], None]:
    """A report of one line at the start of each task, at its end, and every few seconds between."""
    last: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(what, -seconds) >= seconds:
            last[what] = now
            typer.echo(f"{what}: {done}/{total}", err=True)

    return progress


if __name__ == "__main__":
    main()
