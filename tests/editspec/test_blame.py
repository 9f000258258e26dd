"""`blame` and `bisect`: which edit of a stack did this to that image."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec.engine.bisection import find_crossing
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.patches.patch import apply_stack, read_patch
from tests.commands import contents, run, said

LATENT, PLACE = 3, {"box": [8, 8, 24, 24]}


def edit(name: str, layer: str, source: int = 7, **fields: Any) -> dict[str, Any]:
    """An edit whose values come from another image."""
    return {
        "name": name,
        "layer": layer,
        "source": {"latent": source, "mask": PLACE},
        "target": {"latent": LATENT, "mask": PLACE},
        "solver": {"method": "least-squares", "collateral_weight": 0.05},
        **fields,
    }


EDITS = (edit("first", "layer6"), edit("second", "layer5", 9), edit("third", "layer4", 11))


@pytest.fixture(autouse=True)
def here(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(make_tiny(), tmp_path / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)


def written(edits: Iterable[dict[str, Any]] = EDITS, **fields: Any) -> str:
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 32},
        "edits": list(edits),
        **fields,
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    return "spec.yaml"


def picture(members: Iterable[int]) -> Tensor:
    """The place of the image under some patches of the build in ``out``, by plain means."""
    files = sorted(Path("out/patches").iterdir())
    stack = [read_patch(files[number]) for number in members]
    model = StyleGAN2(apply_stack(load_file("tiny.safetensors"), stack))
    latent = LatentStream(1, model.architecture.latent_size).items([LATENT])
    with torch.no_grad():
        image = model.images(latent)[0].double().clamp(-1, 1)
    return image[:, 8:24, 8:24].flatten()


def test_shares_are_those_of_all_orders_of_the_patches() -> None:
    said("build", written(), "-o", "out")
    found = said("blame", "spec.yaml", "-o", "why", "--latent", LATENT, "--mask", json.dumps(PLACE))
    nothing, whole = picture(()), picture(range(3))
    wanted = [0.0] * 3
    for order in itertools.permutations(range(3)):
        for place, number in enumerate(order):
            gained = picture(sorted(order[: place + 1])) - picture(sorted(order[:place]))
            wanted[number] += float(gained @ (whole - nothing)) / 6
    square = float((whole - nothing).square().sum())
    shares = [each["share"] for each in found["edits"]]
    assert shares == pytest.approx([each / square for each in wanted], abs=1e-5)
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert found["change"] == pytest.approx(float((whole - nothing).abs().mean()), rel=1e-5)
    for number, each in enumerate(found["edits"]):
        others = [other for other in range(3) if other != number]
        alone, without = (
            float((picture(members) - nothing) @ (whole - nothing)) / square
            for members in ([number], others)
        )
        assert (each["alone"], each["without"]) == pytest.approx((alone, without), abs=1e-5)
        assert each["error"] == 0
    assert found["orders"] is None
    # Another place of the image has other shares.
    whole_image = said("blame", "spec.yaml", "-o", "why", "--latent", LATENT)
    assert [each["share"] for each in whole_image["edits"]] != pytest.approx(shares, abs=1e-3)


def test_what_it_writes_and_prints() -> None:
    spec = written()
    result = run("blame", spec, "-o", "why", "--latent", LATENT, "--mask", json.dumps(PLACE))
    assert result.exit_code == 0, result.stderr
    head, names, *rows = result.stdout.splitlines()
    assert head.startswith("latent 3: changed by 0.")
    assert names.split() == ["edit", "share", "alone", "without", "it"]
    assert [row.split()[0] for row in rows] == ["first", "second", "third"]
    assert set(contents(Path("why"))) == {"blame.json", "blame.png"}
    data = json.loads(Path("why/blame.json").read_text())
    assert (data["format"], data["item"]) == ("editspec.blame", "latent 3")
    with Image.open("why/blame.png") as sheet:
        # Three pictures in the first row, and three edits in the next two.
        assert sheet.height > sheet.width
        colours = sheet.convert("RGB").getcolors(2**20)
    assert colours is not None
    assert len(colours) > 100
    # Again: the same bytes over its own folder; never over another.
    before = contents(Path("why"))
    assert editspec.blame(spec, "why", latent=LATENT, mask=json.dumps(PLACE)).picture is not None
    assert contents(Path("why")) == before
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    refused = run("blame", spec, "-o", "mine", "--latent", LATENT)
    assert refused.exit_code == 1
    assert contents(Path("mine")) == {"notes.txt": b"mine"}


def test_an_idle_edit_has_no_share_and_equal_edits_have_equal_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = written([edit("one", "layer6"), edit("same", "layer6"), edit("idle", "layer6")])
    session_edit = editspec.engine.session.BuildSession.edit

    def stacked(session: Any, number: int) -> Any:
        """Edit `same` has the change of edit `one`, and edit `idle` has none."""
        built = session_edit(session, number)
        patch = session.stack[0]
        if number:
            factor = 1.0 if number == 1 else 0.0
            coefficients = {name: factor * a for name, a in patch.coefficients.items()}
            session.stack[number] = type(patch)(patch.directions, coefficients, patch.metadata)
        return built

    monkeypatch.setattr("editspec.engine.session.BuildSession.edit", stacked)
    found = editspec.blame(spec, "why", latent=LATENT)
    one, same, idle = (each.share for each in found.edits)
    assert idle == 0
    assert found.edits[2].without == pytest.approx(1, abs=1e-12)
    assert one == pytest.approx(same, abs=1e-9)
    assert one == pytest.approx(0.5, abs=1e-9)


@pytest.mark.slow
def test_many_edits_are_sampled_by_seed() -> None:
    solver = {"method": "direct", "steps": 3}
    layers = itertools.cycle(["layer4", "layer5", "layer6"])
    edits = [
        edit(f"e{number}", layer, 20 + number, solver=solver)
        for number, layer in zip(range(9), layers, strict=False)
    ]
    spec = written(edits)
    table = run("blame", spec, "-o", "why", "--latent", LATENT, "--seed", 4).stdout
    found = json.loads(Path("why/blame.json").read_text())
    assert (found["orders"], found["seed"]) == (64, 4)
    assert sum(each["share"] for each in found["edits"]) == pytest.approx(1, abs=1e-9)
    assert all(each["error"] > 0 for each in found["edits"])
    assert "±" in table
    assert "64 sampled orders" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "x"), "--latent is missing"),
        (("-o", "x", "--latent", "-1"), "--latent"),
        (("-o", "x", "--latent", LATENT, "--mask", "{box: [40, 40, 60, 60]}"), "picture"),
        (("-o", "x", "--latent", LATENT, "--mask", "{circle: 3}"), "circle"),
        (("-o", "x", "--latent", LATENT, "--mask", "no.png"), "--mask: no.png"),
        (("-o", "x", "--latent", LATENT, "--patches", "nowhere"), "not the folder of a build"),
    ],
)
def test_wrong_questions_are_refused_before_the_work(
    arguments: tuple[object, ...], words: str
) -> None:
    spec = written()
    result = run("blame", spec, *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    # Options are named, and no spec that nobody wrote; each mistake once.
    assert "edits[0]" not in result.stderr
    assert result.stderr.count("hint: ") == 1
    assert not Path("x").exists()
    assert not Path("spec.yaml.lock").exists()


def test_one_edit_and_edits_that_change_nothing() -> None:
    result = run("blame", written(EDITS[:1]), "-o", "x", "--latent", LATENT)
    assert result.exit_code == 2
    assert "one edit, first: it did all that was changed" in result.stderr
    same = {"latent": LATENT, "mask": PLACE}
    idle = [edit(name, "layer6") | {"source": same} for name in ("a", "b")]
    result = run("blame", written(idle), "-o", "x", "--latent", LATENT)
    assert result.exit_code == 2, result.output
    assert "change nothing there in latent 3" in result.stderr
    assert not Path("x").exists()


def test_patches_of_a_build_are_taken(own_cache: Path) -> None:
    said("build", written(), "-o", "out")
    shutil.rmtree(own_cache / "patches")
    shutil.rmtree(own_cache / "solutions")
    found = said("blame", "spec.yaml", "-o", "why", "--latent", LATENT, "--patches", "out")
    assert not (own_cache / "solutions").exists()
    # Without them the edits are solved again, to the same.
    again = said("blame", "spec.yaml", "-o", "why", "--latent", LATENT)
    assert (own_cache / "solutions").exists()
    assert again == found


def test_a_crossing_is_found_by_halving() -> None:
    def below(value: float) -> bool:
        """Whether a value keeps the bound."""
        return value <= 0.5

    for planted in range(1, 10):
        values = {count: 0.01 * count + (count >= planted) for count in range(1, 10)}
        found = find_crossing(9, values.__getitem__, below)
        assert found.found == planted
        assert found.values.items() <= values.items()
        assert len(found.values) <= 5
        assert planted in found.values
        assert planted == 1 or planted - 1 in found.values
        # Whatever is not measured is named.
        assert found.untried == [n for n in range(1, planted) if n not in found.values]
    assert find_crossing(9, lambda count: 0.5, below).found is None
    # A measure that falls again: one of its crossings is found, with both of its sides.
    falling = dict(enumerate([0, 1, 0, 0, 0, 1, 1], start=0))
    found = find_crossing(6, lambda count: float(falling[count]), below)
    assert found.found == 5
    assert found.values == {3: 0, 4: 0, 5: 1, 6: 1}
    assert found.untried == [1, 2]


def test_bisect_finds_the_edit_that_was_planted() -> None:
    gentle = {"method": "least-squares", "collateral_weight": 1e4}
    wild = {"method": "least-squares", "collateral_weight": 1e-3}
    edits = [
        edit(name, layer, source, solver=wild if name == "wild" else gentle)
        for name, layer, source in [
            ("a", "layer6", 7),
            ("b", "layer5", 9),
            ("wild", "layer4", 11),
            ("c", "layer6", 13),
        ]
    ]
    said("build", written(edits), "-o", "out")
    pictures = [picture(range(count)) for count in range(5)]
    ask = ("bisect", "spec.yaml", "--measure", "collateral", "--latent", LATENT, "--at-most")
    found = said(*ask, 0.01)
    assert found["edit"] == "wild"
    assert found["before"] <= 0.01 < found["after"]
    assert [(each["edits"], each["exceeds"]) for each in found["tried"]] == [
        (2, False),
        (3, True),
        (4, True),
    ]
    assert found["untried"] == ["a"]
    # The change of the whole image is what the place has, at least in its order of size.
    inside = float((pictures[3] - pictures[0]).abs().mean())
    assert 0.1 < found["after"] / inside < 10
    text = run(*ask, 0.01).stdout
    assert "before wild and" in text
    assert "after edit 2, b:" in text
    assert "Not measured: after a." in text
    # Where nothing exceeds the bound there is no edit.
    none = said(*ask, 5.0)
    assert none["edit"] is None
    assert none["before"] is None
    assert [each["edits"] for each in none["tried"]] == [4]
    assert "not above 5" in run(*ask, 5.0).stdout


def test_bisect_by_traces_looks_where_no_edit_is_meant() -> None:
    written([edit("a", "layer5", 9), edit("b", "layer6", 7)])
    ask = ("bisect", "spec.yaml", "--measure", "trace", "--at-most", 0.0, "--latent")
    seen, target = (said(*ask, latent) for latent in (40, LATENT))
    assert seen["edit"] == "a"
    assert seen["after"] > 0
    # In the target's image, the place of the target may change.
    everywhere = {"latent": LATENT, "mask": {"box": [0, 0, 32, 32]}}
    written([edit("a", "layer5", 9, target=everywhere)])
    whole = said(*ask, LATENT)
    assert (whole["edit"], whole["after"]) == (None, 0)
    assert target["after"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--measure", "trace", "--at-most", 1), "--latent is missing"),
        (("--measure", "efficacy", "--latent", 1, "--at-most", 1), "no measure efficacy"),
        (("--measure", "trace", "--latent", 1, "--at-most", -1), "--at-most"),
        (("--measure", "trace", "--latent", 1, "--at-most", "nan"), "--at-most"),
        (("--measure", "trace", "--latent", 1), "--at-most is missing"),
        (
            ("--measure", "trace", "--latent", 1, "--at-most", 1, "--patches", "nowhere"),
            "not the folder of a build",
        ),
    ],
)
def test_wrong_bisections_are_refused_before_the_work(
    arguments: tuple[object, ...], words: str
) -> None:
    result = run("bisect", written(), *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("spec.yaml.lock").exists()


def test_from_python_a_bound_is_a_number_too() -> None:
    for bound in (float("nan"), -1.0):
        with pytest.raises(editspec.EditError, match="expected a number from 0"):
            editspec.bisect(written(), measure="trace", latent=1, at_most=bound)
