"""The command line on real files: what it prints, writes, refuses, and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.patches.patch import read_patch
from tests.commands import contents, run, said


def three_edits() -> dict[str, Any]:
    def place(latent: int, left: int, top: int) -> dict[str, Any]:
        return {"latent": latent, "mask": {"box": [left, top, left + 10, top + 10]}}

    def edit(name: str, layer: str, shift: int, **fields: Any) -> dict[str, Any]:
        return {
            "name": name,
            "layer": layer,
            "source": place(1, 4, shift),
            "target": place(2, 12, 8),
            **fields,
        }

    short = {"method": "projected-gradient", "steps": 30, "project_every": 5}
    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 40},
        "edits": [
            edit("one", "layer6", 0, solver=short),
            edit("two", "layer5", 8, rank=2, solver={"method": "direct", "steps": 30}),
            edit("three", "layer6", 16, solver=short, context=[place(3, 2, 2), place(4, 12, 20)]),
        ],
    }


@pytest.fixture
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a tiny model and a spec of three edits, two of them of the same layer."""
    save_file(make_tiny(), tmp_path / "tiny.safetensors")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(three_edits(), sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_build_makes_what_it_says(folder: Path) -> None:
    edits = said("build", "spec.yaml", "-o", "out")["edits"]
    assert [edit["name"] for edit in edits] == ["one", "two", "three"]
    assert [edit["patch"] for edit in edits] == [
        f"out/patches/0{n}-{e['name']}.safetensors" for n, e in enumerate(edits, 1)
    ]
    assert all(
        set(edit["seconds"]) == {"compile", "targets", "statistics", "solve"} for edit in edits
    )
    assert sorted(contents(folder / "out")) == sorted(
        ["manifest.json"]
        + [
            f"{kind}/0{n}-{e['name']}.safetensors"
            for kind in ("rules", "patches")
            for n, e in enumerate(edits, 1)
        ]
    )
    manifest = json.loads((folder / "out/manifest.json").read_text())
    assert [edit["digest"] for edit in manifest["edits"]] == [edit["digest"] for edit in edits]
    assert "seconds" not in json.dumps(manifest)
    parent = read_weights(folder / "tiny.safetensors").digest()
    for edit in edits:
        metadata = read_patch(Path(edit["patch"])).metadata
        assert metadata["parent"] == parent
        parent = metadata["result"]


def one_edit(method: str, **settings: Any) -> dict[str, Any]:
    """The first of the three edits by another method."""
    spec = three_edits()
    spec["edits"] = spec["edits"][:1]
    spec["edits"][0]["solver"] = {"method": method, **settings}
    return spec


METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "low-rank": ({"steps": 20, "learning_rate": 0.05}, {"rank": 2}),
    "layer": ({"steps": 20}, {}),
    "all-weights": ({"steps": 8, "learning_rate": 0.002}, {}),
    "ablate": ({}, {"source": {"erase": {"units": 2}}}),
    "projected-gradient": (
        {"steps": 20, "project_every": 2, "project_gradient": True},
        {"source": {"erase": {"units": 2}}, "directions": "units", "rank": 3},
    ),
    "direct": ({"steps": 20}, {"directions": "svd"}),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_an_ordinary_patch(folder: Path, method: str) -> None:
    settings, fields = METHODS[method]
    spec = one_edit(method, **settings)
    spec["edits"][0].update(fields)
    # A second edit stands on the first, whatever its method was.
    spec["edits"].append({**three_edits()["edits"][1], "solver": {"method": "direct", "steps": 5}})
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    edits = said("build", "spec.yaml", "-o", "out")["edits"]
    applied = said(
        "apply",
        "--model",
        "tiny.safetensors",
        *[e["patch"] for e in edits],
        "-o",
        "edited.safetensors",
    )
    assert applied["digest"] == edits[1]["result"]
    assert (edits[0]["loss"] >= 0, edits[0]["layer"]) == (True, "layer6")
    inspected = said("inspect", edits[0]["patch"])
    names = {tensor["name"] for tensor in inspected["tensors"]}
    if method == "layer":
        assert names == {"convs.3.conv.weight.delta"}
    elif method == "all-weights":
        assert len(names) > 40
    else:
        assert names == {"convs.3.conv.weight.D", "convs.3.conv.weight.A"}
    assert inspected["rank"] == {
        "low-rank": 2,
        "ablate": 2,
        "projected-gradient": 3,
        "direct": 1,
    }.get(method)
    assert inspected["collateral"] == edits[0]["collateral"]
    layers = 7 if method == "all-weights" else 1
    assert len(edits[0]["collateral"]) == layers
    assert all(numbers["correlated"] > 0 for numbers in edits[0]["collateral"].values())
    before = contents(folder / "out")
    again = said("build", "spec.yaml", "-o", "out")["edits"]
    assert contents(folder / "out") == before
    assert [edit["collateral"] for edit in again] == [edit["collateral"] for edit in edits]


def test_ablating_no_units_changes_nothing(folder: Path) -> None:
    spec = one_edit("ablate")
    base = read_weights(folder / "tiny.safetensors").digest()
    for units in (0, 1):
        spec["edits"][0]["source"] = {"erase": {"units": units}}
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
        (edit,) = said("build", "spec.yaml", "-o", "out")["edits"]
        assert (edit["result"] == base) == (units == 0)
        assert (edit["loss"] < 1e-6) == (units == 0)
        assert said("verify", "out", "--model", "tiny.safetensors")["verified"]


def test_two_builds_with_empty_caches_give_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        monkeypatch.setenv("EDITSPEC_CACHE", str(folder / f"cache-{name}"))
        assert run("build", "spec.yaml", "-o", name).exit_code == 0
    assert contents(folder / "a") == contents(folder / "b")
    other = three_edits()
    other["edits"][1]["rank"] = 1
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    assert run("build", "other.yaml", "-o", "c").exit_code == 0
    same = [
        name
        for name, data in contents(folder / "c").items()
        if contents(folder / "a").get(name) == data
    ]
    assert same == ["patches/01-one.safetensors", "rules/01-one.safetensors"]


def test_a_build_is_brought_up_to_date(folder: Path, own_cache: Path) -> None:
    said("build", "spec.yaml", "-o", "out")
    first = contents(folder / "out")
    for path in own_cache.rglob("solutions/*"):
        path.unlink()
    again = said("build", "spec.yaml", "-o", "out")["edits"]
    assert contents(folder / "out") == first
    assert all(edit["seconds"]["solve"] == 0 for edit in again)
    shorter = three_edits()
    del shorter["edits"][1]
    (folder / "spec.yaml").write_text(yaml.safe_dump(shorter))
    edits = said("build", "spec.yaml", "-o", "out")["edits"]
    assert [edit["seconds"]["solve"] > 0 for edit in edits] == [False, True]
    assert sorted(contents(folder / "out"))[1:3] == [
        "patches/01-one.safetensors",
        "patches/02-three.safetensors",
    ]
    assert len(contents(folder / "out")) == 5


def test_statistics_are_reused(folder: Path, own_cache: Path) -> None:
    found = said("statistics", "spec.yaml")["statistics"]
    # Edits one and three are of layer6, and edit two changed layer5 before it.
    assert [entry["cached"] for entry in found] == [False, False, False]
    assert found[0]["digest"] != found[2]["digest"]
    assert [entry["cached"] for entry in said("statistics", "spec.yaml")["statistics"]] == [
        True
    ] * 3
    assert len(list(own_cache.glob("statistics/*"))) == 3
    for path in own_cache.rglob("solutions/*"):
        path.unlink()
    edits = said("build", "spec.yaml", "-o", "out")["edits"]
    assert all(edit["seconds"]["solve"] > 0 for edit in edits)
    assert len(list(own_cache.glob("statistics/*"))) == 3


def test_compile_writes_the_rules_of_the_build(folder: Path) -> None:
    assert run("compile", "spec.yaml", "-o", "rules-only").exit_code == 0
    assert run("build", "spec.yaml", "-o", "out").exit_code == 0
    compiled, built = contents(folder / "rules-only"), contents(folder / "out")
    rules = [name for name in built if name.startswith("rules/")]
    assert len(rules) == 3
    assert all(compiled[name] == built[name] for name in rules)
    assert not any(name.startswith("patches/") for name in compiled)


@pytest.mark.parametrize("container", ["tiny.safetensors", "full.pt", "prefixed.safetensors"])
def test_apply_gives_the_result_that_the_patch_names(folder: Path, container: str) -> None:
    tiny = load_file(folder / "tiny.safetensors")
    torch.save({"g_ema": tiny, "g": {}, "d": {}}, folder / "full.pt")
    save_file(
        {f"g_ema.{n}": t for n, t in tiny.items()} | {"d.x": torch.ones(3)},
        folder / "prefixed.safetensors",
    )
    edits = said("build", "spec.yaml", "-o", "out")["edits"]
    patches = [edit["patch"] for edit in edits]
    before = contents(folder)[container]
    for count in (1, 2, 3):
        found = said("apply", "--model", container, *patches[:count], "-o", f"{count}.safetensors")
        assert found["digest"] == edits[count - 1]["result"]
        assert read_weights(folder / f"{count}.safetensors").digest() == edits[count - 1]["result"]
    assert contents(folder)[container] == before
    names = set(load_file(folder / "3.safetensors"))
    assert (
        names == set(tiny) if container.startswith("tiny") else all("." in name for name in names)
    )
    assert ("d.x" in names) == (container == "prefixed.safetensors")


def test_apply_refuses_what_does_not_belong(folder: Path) -> None:
    edits = said("build", "spec.yaml", "-o", "out")["edits"]
    one, two, three = [edit["patch"] for edit in edits]
    base = read_weights(folder / "tiny.safetensors").digest()
    run("apply", "--model", "tiny.safetensors", one, "-o", "edited.safetensors")
    save_file({n: t + 1 for n, t in load_file("tiny.safetensors").items()}, "other.safetensors")
    other = read_weights(folder / "other.safetensors").digest()
    before = contents(folder)
    for arguments, digests in (
        (("tiny.safetensors", two), (edits[0]["result"], base)),
        (("tiny.safetensors", one, three), (edits[1]["result"], edits[0]["result"])),
        (("tiny.safetensors", two, one, three), (edits[0]["result"], base)),
        (("other.safetensors", one), (base, other)),
        (("edited.safetensors", one), (base, edits[0]["result"])),
        (("edited.safetensors", two), (base, edits[0]["result"])),
    ):
        result = run("apply", "--model", *arguments, "-o", "refused.safetensors")
        assert result.exit_code == 1, arguments
        assert all(digest in result.stderr for digest in digests), (arguments, result.stderr)
        assert result.stdout == ""
    assert contents(folder) == before


def test_what_is_in_the_way_is_refused(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").write_text("precious")
    (folder / "file").write_text("precious")
    (folder / "empty").mkdir()
    before = contents(folder)
    for out in ("mine", "file", "file/below"):
        for command in ("build", "compile"):
            result = run(command, "spec.yaml", "-o", out)
            assert result.exit_code == 1
            assert result.stderr.startswith("error: ")
    patch = said("build", "spec.yaml", "-o", "empty")["edits"][0]["patch"]
    for out in ("file", "mine", "file/below", "tiny.safetensors", "spec.yaml"):
        result = run("apply", "--model", "tiny.safetensors", patch, "-o", out)
        assert (result.exit_code, result.stdout) == (1, ""), out
        assert run("render", "spec.yaml", "-o", out).exit_code == 1
    assert {name: data for name, data in contents(folder).items() if name in before} == before
    for _ in range(2):  # its own output may be made again
        assert (
            run("apply", "--model", "tiny.safetensors", patch, "-o", "new.safetensors").exit_code
            == 0
        )
        assert run("render", "spec.yaml", "-o", "new.png", "--count", 2).exit_code == 0


def test_manifest_of_another_kind_protects_its_folder(folder: Path) -> None:
    (folder / "site").mkdir()
    (folder / "site/manifest.json").write_text('{"format": "web"}')
    assert run("build", "spec.yaml", "-o", "site").exit_code == 1
    (folder / "site/manifest.json").write_text(
        '{"format": "editspec.build", "files": ["../spec.yaml", "a/../../spec.yaml"]}'
    )
    assert run("build", "spec.yaml", "-o", "site").exit_code == 0
    assert (folder / "spec.yaml").exists()


def test_render_draws_before_and_after(folder: Path) -> None:
    from PIL import Image

    assert run("render", "spec.yaml", "-o", "a.png", "--count", 3).exit_code == 0
    assert run("render", "spec.yaml", "-o", "b.png", "--count", 3, "--seed", 4).exit_code == 0
    first, other = (Image.open(folder / name).convert("RGB") for name in ("a.png", "b.png"))
    assert first.size == other.size
    assert first.tobytes() != other.tobytes()
    left, right = 56, first.width
    size = (first.height - 4 * 6) // 2
    before, after = (first.crop((left, top, right, top + size)) for top in (6, 12 + size))
    assert before.tobytes() != after.tobytes()


def test_inspect_knows_every_kind(folder: Path) -> None:
    patch = said("build", "spec.yaml", "-o", "out")["edits"][0]["patch"]
    weights = said("inspect", "tiny.safetensors")
    assert (weights["kind"], weights["family"], weights["image_size"]) == (
        "weights",
        "stylegan2",
        32,
    )
    assert [layer["layer"] for layer in weights["layers"]] == [f"layer{n}" for n in range(2, 9)]
    assert weights["digest"] == read_weights(folder / "tiny.safetensors").digest()
    assert said("inspect", patch)["name"] == "one"
    assert said("inspect", patch.replace("patches", "rules"))["kind"] == "rule"
    assert [edit["name"] for edit in said("inspect", "spec.yaml")["edits"]] == [
        "one",
        "two",
        "three",
    ]
    for file in ("tiny.safetensors", patch, "spec.yaml"):
        assert "layer6" in run("inspect", file).stdout
    (folder / "junk.safetensors").write_bytes(b"junk")
    assert run("inspect", "junk.safetensors").exit_code == 1
    assert run("inspect", "none").exit_code == 2


def test_schema_and_families() -> None:
    schema = json.loads(run("schema").stdout)
    families = [each["$ref"].rpartition("_")[2] for each in schema["oneOf"]]
    assert families == ["stylegan2", "proggan", "torch", "transformer", "diffusion"]
    assert [entry["name"] for entry in said("families")["families"]] == families


def test_errors_are_one_json_object_too(folder: Path) -> None:
    (folder / "bad.yaml").write_text("version: 3\n")
    result = run("validate", "bad.yaml", "--json")
    assert result.exit_code == 2
    places = [problem["path"] for problem in json.loads(result.stdout)["error"]["problems"]]
    assert places == ["model", "version"]
    assert "bad.yaml:1:10" in result.stderr
    result = run("apply", "--model", "none", "x", "-o", "y", "--json")
    assert result.exit_code == 2
    assert "does not exist" in json.loads(result.stdout)["error"]["message"]
    assert said("validate", "spec.yaml")["valid"] is True


def test_wrong_command_lines(folder: Path) -> None:
    for arguments in (
        ["build"],
        ["build", "spec.yaml"],
        ["nonsense"],
        ["build", "spec.yaml", "-o", "x", "--threads", "0"],
    ):
        assert run(*arguments).exit_code == 2
    result = run("build", "spec.yaml", "-o", "x", "--device", "abacus")
    assert result.exit_code == 2
    assert "abacus" in result.stderr
    if not torch.cuda.is_available():
        assert run("build", "spec.yaml", "-o", "x", "--device", "cuda").exit_code == 2


def test_validate_takes_several_specs_and_says_all_that_is_wrong(folder: Path) -> None:
    good, bad, worse = three_edits(), three_edits(), three_edits()
    bad["edits"][0]["rank"] = 0
    worse["edits"][1]["layer"] = "layer99"
    for name, spec in (("good", good), ("bad", bad), ("worse", worse)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    found = said("validate", "good.yaml", "spec.yaml")
    assert [(entry["spec"], entry["valid"]) for entry in found["specs"]] == [
        ("good.yaml", True),
        ("spec.yaml", True),
    ]
    result = run("validate", "bad.yaml", "good.yaml", "worse.yaml", "--json")
    assert result.exit_code == 2
    assert "bad.yaml:" in result.stderr
    assert "worse.yaml:" in result.stderr
    assert "good.yaml" not in result.stderr
    assert [error["file"] for error in json.loads(result.stdout)["error"]["specs"]] == [
        "bad.yaml",
        "worse.yaml",
    ]
    (folder / "tiny.safetensors").write_bytes(b"damaged")
    assert run("validate", "good.yaml", "spec.yaml").exit_code == 1
    assert run("validate", "good.yaml", "bad.yaml").exit_code == 2


def test_memory_that_ends_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from editspec.commands import build as building

    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory."), "does not fit into memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "does not fit into memory"),
        (MemoryError(), "does not fit into memory"),
        (RuntimeError("else"), "This is a defect"),
        (OSError(28, "No space left on device", "x/rules"), "x/rules cannot be used: no space"),
    ):

        def build(*arguments: object, error: Exception = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(building, "build", build)
        result = run("build", "spec.yaml", "-o", "x", "--json")
        assert result.exit_code == 1
        assert words in result.stderr
        problem = json.loads(result.stdout)["error"]
        assert problem["code"].startswith("E9")
        assert problem["hint"] in result.stderr


HELP = """
import sys
from typer.testing import CliRunner
from editspec.cli.main import COMMANDS, app
for command in ["", *COMMANDS, "ci", "bench"]:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, command
    found = {"torch", "numpy", "editspec_compiler.schema"} & set(sys.modules)
    assert not found, (command, found)
"""


@pytest.mark.slow
def test_no_help_imports_torch_or_the_language() -> None:
    subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True)
    control = [sys.executable, "-c", HELP.replace("import sys", "import sys, torch")]
    assert subprocess.run(control, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    "arguments",
    [["validate", "spec.yaml"], ["schema"], ["families"], ["inspect", "spec.yaml"]],
)
def test_no_torch_for_what_reads_no_tensors(folder: Path, arguments: list[str]) -> None:
    assert "torch" not in modules_after(*arguments)


IMPORTED = """
import json, sys
from editspec.cli.main import app
try:
    app()
except SystemExit as error:
    assert not error.code, error.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules_after(*arguments: str) -> set[str]:
    """All modules that a command has imported when it ends."""
    command = [sys.executable, "-c", IMPORTED, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(done.stderr))


def test_validating_images_imports_no_arrays_and_no_other_family(folder: Path) -> None:
    spec = yaml.safe_load((folder / "spec.yaml").read_text())
    family = spec["model"]["family"]
    found = modules_after("validate", "spec.yaml")
    assert "editspec_compiler.modalities.image.masks" in found
    assert not found & {"torch", "numpy", "safetensors"}
    folders = {FAMILIES[name].make.split(".")[2] for name in FAMILIES}
    begun = {name for name in folders if f"editspec_runtime.families.{name}" in found}
    assert begun == {FAMILIES[family].make.split(".")[2]}
    # Negative control: numbers in a spec are an array, and a misspelt key asks every family.
    spec["edits"][0]["source"]["latent"] = [0.5] * 8
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    assert "numpy" in modules_after("validate", "spec.yaml")


def test_a_list_of_families_imports_none_of_them(folder: Path) -> None:
    found = modules_after("families")
    for family in FAMILIES.values():
        assert family.make.partition(":")[0] not in found
        assert family.fields.partition(":")[0] not in found
        assert str(family.read_architecture).partition(":")[0] not in found
    assert not found & {"torch", "numpy", "editspec_compiler.schema"}


def test_latent_of_a_layer_that_a_pt_lacks_is_the_specs_mistake(folder: Path) -> None:
    torch.save(load_file("tiny.safetensors"), "tiny.pt")
    spec = three_edits()
    spec["model"]["weights"] = "tiny.pt"
    spec["edits"][0]["layer"] = "layer12"
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    assert run("validate", "spec.yaml").exit_code == 0
    result = run("build", "spec.yaml", "-o", "out")
    assert result.exit_code == 2
    assert "there is no layer12" in result.stderr
    assert not (folder / "out").exists()
