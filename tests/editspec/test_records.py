"""Records of the authors' notebook: into specs, out of specs, and every one that is wrong."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

GOLDEN = Path(__file__).parents[1] / "golden"
ASKED = ("--family", "stylegan2", "--weights", "tiny.safetensors", "--layer", "layer6")


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    save_file(make_tiny(channels=32), tmp_path / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def painted(
    left: int, top: int, side: int = 90, size: tuple[int, int] = (256, 256), form: str = "png"
) -> str:
    """A mask as the notebook makes them: white on transparent, as a data URL."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((left, top, left + side, top + side), fill=255)
    image = Image.merge("RGBA", (mask,) * 4) if form == "png" else mask
    buffer = io.BytesIO()
    image.save(buffer, form)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def region(image: int, left: int = 40, top: int = 60, **how: Any) -> list[Any]:
    return [image, painted(left, top, **how)]


def written(record: Any, name: str = "record.json") -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(json.dumps(record))
    return Path(name)


SHAPES: dict[str, dict[str, Any]] = {
    "copy and paste": {"object": region(8), "paste": region(960, 10), "query": region(208)},
    "copy and paste, with keys": {
        "object": region(11),
        "query": region(10),
        "key": [region(10, 20), region(132, 50)],
        "paste": region(144, 70),
    },
    "paste is missing: copy, and paste on the first key": {
        "key": [region(390, 5), region(683)],
        "object": region(442),
    },
    "object is missing: erase on the paste": {
        "key": [region(339, 9), region(441)],
        "paste": region(820),
    },
    "object and key are missing": {"paste": region(820)},
    "object and paste are missing: erase on the first key": {
        "query": region(7, 80),
        "key": [region(7, 30), region(998, 90), region(7, 30)],
    },
    "of another size": {
        "object": region(0, size=(1024, 1024), side=400),
        "paste": region(1, form="jpeg"),
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("switch", [[], ["--compatibility"]])
def test_a_record_becomes_a_spec_and_a_record_again(shape: str, switch: list[str]) -> None:
    record = SHAPES[shape]
    (found,) = said("import", written(record), "-o", "specs/s.yaml", *ASKED, *switch)["records"]
    synonyms = {
        "copy and paste, with keys": "copy and paste",
        "object and key are missing": "object is missing: erase on the paste",
        "of another size": "copy and paste",
    }
    assert found["meaning"] == synonyms.get(shape, shape)
    spec = editspec.load("specs/s.yaml").spec
    (edit,) = spec.edits
    assert (edit.name, edit.layer, edit.rank) == ("record", "layer6", 1)
    assert (spec.latents.seed, spec.latents.sampler, spec.statistics.samples) == (
        1,
        "numpy-legacy",
        1000,
    )
    assert (spec.compatibility == "rewriting-2020") == bool(switch)
    assert edit.solver.model_dump(exclude={"preserve_share"}) == {
        "method": "projected-gradient",
        "steps": 2001,
        "learning_rate": 0.05,
        "project_every": 10,
    } | {name: value for name, value in edit.solver.model_dump().items() if value is False}
    if "object" in record:
        assert edit.source.latent == record["object"][0]
    else:
        assert edit.source.model_dump() == {"erase": {"units": 30}}
    target = record.get("paste") or record["key"][0]
    assert edit.target.latent == target[0]
    assert (Path("specs") / str(edit.target.mask)).read_bytes() == base64.b64decode(
        target[1].partition(",")[2]
    )
    assert [place.latent for place in edit.context or []] == [
        key[0] for key in record.get("key", [])
    ]
    said("export", "specs/s.yaml", "--format", "record", "-o", "back.json")
    assert json.loads(Path("back.json").read_text()) == record
    said("import", "back.json", "-o", "again/s.yaml", *ASKED, *switch)
    assert Path("again/s.yaml").read_text() == Path("specs/s.yaml").read_text().replace(
        "record", "back"
    ).replace("an back", "a record").replace(
        "back of the authors", "record of the authors"
    ).replace("in a back", "in a record")
    masks = [
        sorted(path.read_bytes() for path in Path(name, "masks").iterdir())
        for name in ("specs", "again")
    ]
    assert masks[0] == masks[1]


def test_masks_are_kept_once_and_byte_for_byte() -> None:
    mask = painted(30, 30)
    record = {"object": [1, mask], "paste": [2, mask], "key": [[2, mask], [3, painted(60, 60)]]}
    said("import", written(record), "-o", "s.yaml", *ASKED)
    assert len(list(Path("masks").iterdir())) == 2
    assert base64.b64decode(mask.partition(",")[2]) in {
        path.read_bytes() for path in Path("masks").iterdir()
    }


@pytest.mark.parametrize("case", ["L8.proj.rank1", "L6.erase.rank1"])
def test_the_golden_record_gives_the_golden_numbers(record: dict[str, Any], case: str) -> None:
    """Import, then the few lines that the goldens were made with, then build."""
    layer, erased = case.partition(".")[0].replace("L", "layer"), "erase" in case
    weights = (
        "--family",
        "stylegan2",
        "--weights",
        GOLDEN / "sg2_g_ema.safetensors",
        "--layer",
        layer,
    )
    written(
        {name: part for name, part in record["record"].items() if not (erased and name == "object")}
    )
    said("import", "record.json", "-o", "s.yaml", *weights, "--compatibility")
    said("export", "s.yaml", "--format", "record", "-o", "back.json")
    for source, out in (("record.json", "first.yaml"), ("back.json", "second.yaml")):
        said("import", source, "-o", out, *weights, "--compatibility")
        text = (
            Path(out)
            .read_text()
            .replace("steps: 2001", "steps: 101")
            .replace("samples: 1000", "samples: 64")
        )
        Path(out).write_text(text + "precision: float64\n")
        (edit,) = said("build", out, "-o", Path(out).stem)["edits"]
        patch = read_patch(Path(edit["patch"]))
        delta = patch.delta(next(iter(patch.directions)))
        wanted = load_file(GOLDEN / "sg2_edits_f64.safetensors")[f"{case}.delta"][0]
        assert (delta - wanted).norm() / wanted.norm() < 1e-10
    # Without the switch the numbers are ours, not theirs.
    said("import", "record.json", "-o", "ours.yaml", *weights)
    assert "compatibility" not in Path("ours.yaml").read_text()


def test_a_folder_is_imported_whole_with_a_report() -> None:
    for number, shape in enumerate(SHAPES.values()):
        written(shape, f"records/church/{number}.json")
    written(SHAPES["copy and paste"], "records/faces/smile.json")
    progress = said("import", "records", "-o", "specs", *ASKED)["records"]
    assert [entry["spec"] for entry in progress] == [
        f"specs/church/{n}.yaml" for n in range(len(SHAPES))
    ] + ["specs/faces/smile.yaml"]
    for entry in progress:
        editspec.load(entry["spec"])
    assert not Path("specs/church/masks").exists()
    masks = len(list(Path("specs/masks").iterdir()))
    Path("records/bad.json").write_text("{")
    written({"object": region(1)}, "records/half.json")
    records = said("import", "records", "-o", "specs", *ASKED, code=2)["records"]
    errors = {Path(entry["record"]).name for entry in records if "error" in entry}
    assert errors == {"bad.json", "half.json"}
    assert len(list(Path("specs/masks").iterdir())) == masks
    assert "records/bad.json: records" not in run("import", "records", "-o", "specs", *ASKED).stdout
    assert (
        f"{len(SHAPES) + 1} of {len(SHAPES) + 3} records imported"
        in run("import", "records", "-o", "specs", *ASKED).stdout
    )
    Path("none").mkdir()
    assert run("import", "none", "-o", "x", *ASKED).exit_code == 2


def test_what_was_changed_by_hand_stays() -> None:
    written(SHAPES["copy and paste"])
    for _ in range(2):
        said("import", "record.json", "-o", "s.yaml", *ASKED)
    text = Path("s.yaml").read_text() + "precision: float64\n"
    Path("s.yaml").write_text(text)
    result = run("import", "record.json", "-o", "s.yaml", *ASKED)
    assert (result.exit_code, "s.yaml is in the way" in result.stderr) == (1, True)
    assert Path("s.yaml").read_text() == text
    assert run("export", "s.yaml", "--format", "record", "-o", "s.yaml").exit_code == 1
    assert Path("s.yaml").read_text() == text


GOOD = region(3)


def test_the_command_line_is_checked_first() -> None:
    written(SHAPES["copy and paste"])
    for asked, code, message in (
        ({"--layer": "layer66"}, 2, 'did you mean "layer6"?'),
        ({"--family": "stylegan"}, 2, 'did you mean "stylegan2"?'),
        ({"--weights": "none.pt"}, 2, "none.pt does not exist"),
        ({"--weights": "record.json"}, 1, "record.json"),
    ):
        given = dict(zip(ASKED[::2], ASKED[1::2], strict=True)) | asked
        result = run(
            "import",
            "record.json",
            "-o",
            "s.yaml",
            *(part for pair in given.items() for part in pair),
        )
        assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert run("import", "none.json", "-o", "s.yaml", *ASKED).exit_code == 2
    assert not Path("s.yaml").exists()


def test_an_export_refuses_what_a_record_cannot_hold() -> None:
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    edit = {
        "name": "a",
        "layer": "layer6",
        "source": place,
        "target": {**place, "latent": [0.5] * 8},
    }
    spec = {"version": 1, "model": {"family": "stylegan2", "weights": "tiny.safetensors"}}
    written(spec | {"edits": [edit, edit | {"name": "b"}]}, "s.json")
    result = run("export", "s.json", "--format", "record", "-o", "x.json")
    assert result.exit_code == 2
    for part in (
        "edits: a record holds one edit",
        "authors' stream",
        "edits[0].target.latent: a record names its",
    ):
        assert part in result.stderr
    assert run("export", "s.json", "--format", "onnx", "-o", "x.json").exit_code == 2
    assert not Path("x.json").exists()
    # Shapes become pictures with the same area.
    edit["target"] = {**place, "latent": 2}
    written(spec | {"latents": {"sampler": "numpy-legacy"}, "edits": [edit]}, "shapes.json")
    said("export", "shapes.json", "--format", "record", "-o", "x.json")
    said("import", "x.json", "-o", "x.yaml", *ASKED)
    first, second = (editspec.compile(name).edits[0].rules[0] for name in ("shapes.json", "x.yaml"))
    assert (first.value == second.value).all()
    assert (first.context_weights == second.context_weights).all()


def test_the_golden_interventions_give_the_golden_numbers(
    golden: dict[str, dict[str, Tensor]],
) -> None:
    weights = (
        "--family",
        "proggan",
        "--weights",
        GOLDEN / "pg_state_dict.safetensors",
        "--layer",
        "layer6",
    )
    (found,) = said(
        "import", GOLDEN / "reflection.json", "-o", "s.yaml", *weights, "--compatibility"
    )["records"]
    assert found["meaning"] == "interventions: bright and dim reflections are swapped"
    (edit,) = editspec.load("s.yaml").spec.edits
    assert (edit.observe, edit.solver.method, len(edit.pairs or [])) == ("layer8", "low-rank", 8)
    units = edit.pairs[0].source.intervene.units
    assert len(units) == 20
    # The golden model is random, and its windows are a choice of the goldens.
    text = Path("s.yaml").read_text().replace(str(units), "[3, 7, 11, 19, 23, 31, 40, 44]")
    Path("s.yaml").write_text(text.replace("steps: 10000", "steps: 30") + "precision: float64\n")
    (built,) = said("build", "s.yaml", "-o", "out")["edits"]
    patch = read_patch(Path(built["patch"]))
    wanted = golden["pg_edits_f64"]["refl.rank1.delta"]
    delta = patch.delta(next(iter(patch.parameters)))
    assert (delta - wanted).norm() / wanted.norm() < 1e-10
    said("export", "s.yaml", "--format", "record", "-o", "back.json")
    assert json.loads(Path("back.json").read_text()) == json.loads(
        (GOLDEN / "reflection.json").read_text()
    )


def test_interventions_become_a_spec_and_interventions_again() -> None:
    masks = [painted(20 * n, 100 - 20 * n) for n in range(6)]
    record = {
        "14": {"value": "-5.0", "intervention": masks[0], "revert": masks[1]},
        "229": {"value": "10.0", "intervention": masks[2], "revert": masks[3]},
        "3": {"value": "8.5", "intervention": masks[4], "revert": masks[5]},
    }
    said("import", written(record), "-o", "specs/s.yaml", *ASKED)
    (edit,) = editspec.load("specs/s.yaml").spec.edits
    states = [
        (pair.target.latent, pair.target.intervene.value, pair.source.intervene.value)
        for pair in edit.pairs
    ]
    # Both states of every image, as the authors compare them, whichever of the two was looked at
    # last.
    assert states == [
        (14, 10, -5),
        (229, -5, 10),
        (3, -5, 8.5),
        (14, -5, 10),
        (229, 10, -5),
        (3, 8.5, -5),
    ]
    said("export", "specs/s.yaml", "--format", "record", "-o", "record-again.json")
    assert json.loads(Path("record-again.json").read_text()) == record
    said("import", "record-again.json", "-o", "again/s.yaml", *ASKED)
    rules = [
        editspec.compile(f"{folder}/s.yaml").edits[0].rules[0] for folder in ("specs", "again")
    ]
    assert rules[0].value.equal(rules[1].value)
    text = Path("specs/s.yaml").read_text()
    for old, new in (
        ("value: 8.5", "value: 8"),
        ("latent: 229", "latent: 230"),
        ("layer: layer4", "layer: layer5"),
    ):
        Path("specs/other.yaml").write_text(text.replace(old, new, 1))
        result = run("export", "specs/other.yaml", "--format", "record", "-o", "other.json")
        assert (result.exit_code, "swaps two states of its images" in result.stderr) == (2, True), (
            result.stderr
        )


def test_interventions_need_a_layer_behind_the_windows() -> None:
    entry = {"value": "-5.0", "intervention": GOOD[1], "revert": GOOD[1]}
    asked = (*ASKED[:-1], "layer4")
    result = run("import", written({"3": entry}), "-o", "s.yaml", *asked)
    assert (result.exit_code, "layer4 does not lie behind it" in result.stderr) == (2, True)
    said("import", written({"3": entry}), "-o", "s.yaml", *ASKED)
    editspec.compile("s.yaml")
