"""`build --pick`: a point of the choice that `--pareto` shows becomes the spec's, and the
build's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from editspec.engine.pick import set_collateral_weight
from editspec_compiler.document import parse
from editspec_runtime.errors import UsageError
from editspec_runtime.patches.patch import read_patch
from tests.commands import run

HEAD = """# Towers get spires.
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
statistics: {samples: 32}   # quick
edits:
"""
EDIT = """  - name: NAME   # why
    layer: layer6
    source: {latent: 6, mask: {box: [8, 4, 22, 22]}}
    target: {latent: LATENT, mask: {box: [8, 4, 22, 22]}}
    solver: SOLVER   # the choice
"""


def edit(name: str, latent: int = 5, solver: str = "least-squares") -> str:
    return EDIT.replace("NAME", name).replace("LATENT", str(latent)).replace("SOLVER", solver)


def build(folder: Path, *options: str) -> Result:
    return run("build", folder / "spec.yaml", "-o", folder / "out", *options)


def curves(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "out" / "pareto.json").read_text())["curves"]
    return {curve["edit"]: curve for curve in found}


def test_what_is_built_is_the_point_that_was_picked(tmp_path: Path) -> None:
    text = HEAD + edit("e")
    (tmp_path / "spec.yaml").write_text(text)
    assert build(tmp_path, "--pareto").exit_code == 0
    for number in (5, 12):
        before = curves(tmp_path)["e"]
        result = build(tmp_path, "--pick", str(number))
        assert result.exit_code == 0, result.stderr
        point = before["points"][number - 1]
        # The spec says it, with all its comments; beside it nothing has changed.
        solver = f"{{method: least-squares, collateral_weight: {point['collateral_weight']!r}}}"
        assert (tmp_path / "spec.yaml").read_text() == text.replace(
            "solver: least-squares", f"solver: {solver}"
        )
        # The patch is that point.
        patch = read_patch(tmp_path / "out" / "patches" / "01-e.safetensors")
        assert patch.metadata["solver"]["collateral_weight"] == point["collateral_weight"]
        assert patch.metadata["collateral"]["layer6"]["correlated"] == point["collateral"]
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["edits"][0]["loss"] == point["loss"]
        # The choice is as it was, and says which one it is.
        assert curves(tmp_path)["e"] == before | {"picked": number}
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("*")]
        assert line.split()[1] == str(number)
    # A build without it keeps what was picked.
    assert build(tmp_path).exit_code == 0
    again = read_patch(tmp_path / "out" / "patches" / "01-e.safetensors")
    assert again.metadata["content"] == patch.metadata["content"]
    assert point["loss"] != before["points"][4]["loss"]


def test_of_several_edits_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        HEAD + edit("one") + edit("two", 7, "{method: least-squares}")
    )
    assert build(tmp_path, "--pareto").exit_code == 0
    before = (tmp_path / "spec.yaml").read_text()
    result = build(tmp_path, "--pick", "3")
    assert result.exit_code == 2
    assert (
        "Several edits are solved by least-squares.\n  hint: Give one: one=N, two=N."
        in result.stderr
    )
    assert (tmp_path / "spec.yaml").read_text() == before
    first = curves(tmp_path)
    assert build(tmp_path, "--pick", "two=3").exit_code == 0
    assert (tmp_path / "spec.yaml").read_text().startswith(HEAD + edit("one"))
    assert curves(tmp_path)["one"] == first["one"]
    assert curves(tmp_path)["two"] == first["two"] | {"picked": 3}
    # What comes after an edit is chosen anew: its curve is another now.
    assert build(tmp_path, "--pick", "one=3").exit_code == 0
    assert curves(tmp_path)["two"]["inputs"] != first["two"]["inputs"]


def test_what_cannot_be_picked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, pareto = tmp_path / "spec.yaml", tmp_path / "out" / "pareto.json"
    spec.write_text(HEAD + edit("e") + edit("other", 7, "{method: direct, steps: 3}"))

    def refused(message: str, *options: str) -> None:
        before, choice = spec.read_bytes(), pareto.read_bytes() if pareto.exists() else None
        result = build(tmp_path, *options)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.stderr.split())
        assert spec.read_bytes() == before
        assert (pareto.read_bytes() if pareto.exists() else None) == choice

    refused("pareto.json is not there. hint: Build with --pareto first.", "--pick", "3")
    assert build(tmp_path, "--pareto").exit_code == 0
    refused("There is no point 18 of e. hint: The points are 1 to 17.", "--pick", "18")
    refused("There is no point three of e.", "--pick", "three")
    refused("There is no edit othr. hint: Known here: e.", "--pick", "othr=3")
    refused("other is solved by direct, which has no points to pick from.", "--pick", "other=3")
    refused(
        "--pick changes the spec, which --frozen builds as its lock has it.",
        "--pick",
        "3",
        "--frozen",
    )
    allowed = os.access
    with monkeypatch.context() as patched:
        patched.setattr(
            os, "access", lambda path, mode: (path, mode) != (spec, os.W_OK) and allowed(path, mode)
        )
        refused(
            "cannot be written, and a pick is written there. hint: Pick in a copy of it.",
            "--pick",
            "3",
        )
    whole = pareto.read_text()
    for damaged in ("[", "[" * 100_000, "{}", whole.replace('"inputs"', '"puts"')):
        pareto.write_text(damaged)
        refused("pareto.json has no curve of e. hint: Build with --pareto first.", "--pick", "3")
    collateral_weight = json.loads(whole)["curves"][0]["points"][2]["collateral_weight"]
    pareto.write_text(
        whole.replace(f'"collateral_weight": {collateral_weight!r}', '"collateral_weight": NaN')
    )
    refused("is damaged: a collateral_weight is nan", "--pick", "3")
    pareto.write_text(whole)
    # Of something else than it was made for, it is no choice.
    spec.write_text(spec.read_text().replace("latent: 6", "latent: 8"))
    refused("was made from other inputs than e has now. hint: Build with --pareto", "--pick", "3")
    spec.write_text(spec.read_text().replace("latent: 8", "latent: 6"))
    assert build(tmp_path, "--pick", "3").exit_code == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("least-squares  # why", "{method: least-squares, collateral_weight: 0.5}  # why"),
        ("'least-squares'", "{method: 'least-squares', collateral_weight: 0.5}"),
        ("{method: least-squares}", "{method: least-squares, collateral_weight: 0.5}"),
        (
            "{collateral_weight: 0.02, method: least-squares}",
            "{collateral_weight: 0.5, method: least-squares}",
        ),
        (
            "{method: least-squares, collateral: 1e-3}",
            "{method: least-squares, collateral_weight: 0.5}",
        ),
        (
            "\n      method: least-squares  # why",
            "\n      method: least-squares  # why\n      collateral_weight: 0.5",
        ),
        (
            "\n     collateral_weight: 2 #\n     method: least-squares",
            "\n     collateral_weight: 0.5 #\n     method: least-squares",
        ),
        (
            "\r\n      method: least-squares\r",
            "\r\n      method: least-squares\r\n      collateral_weight: 0.5\r",
        ),
        ("&s least-squares", "{method: &s least-squares, collateral_weight: 0.5}"),
    ],
)
def test_the_rest_of_the_text_stays(before: str, after: str) -> None:
    around = "version: 1  # ä\nedits:\n  - name: e\n    solver: {}\n    layer: layer6\n"
    text = around.replace("{}", before)
    assert set_collateral_weight(parse(text, "spec.yaml"), 0, 0.5) == around.replace("{}", after)


def test_json_stays_json() -> None:
    text = '{\n\t"edits": [\n\t\t{"name": "e", "solver": SOLVER}\n\t]\n}\n'
    for before, after in (
        ('"least-squares"', '{"method": "least-squares", "collateral_weight": 1e-05}'),
        ('{"method": "least-squares"}', '{"method": "least-squares", "collateral_weight": 1e-05}'),
        (
            '{"collateral_weight": 1, "method": "least-squares"}',
            '{"collateral_weight": 1e-05, "method": "least-squares"}',
        ),
    ):
        found = set_collateral_weight(parse(text.replace("SOLVER", before), "spec.json"), 0, 1e-5)
        assert found == text.replace("SOLVER", after)


def test_a_solver_that_edits_share_is_not_changed() -> None:
    text = "edits:\n  - {name: a, solver: &s {method: least-squares}}\n  - {name: b, solver: *s}\n"
    for number in (0, 1):
        with pytest.raises(
            UsageError,
            match=f"solver of edit {number + 1} cannot be changed in spec.yaml by itself",
        ):
            set_collateral_weight(parse(text, "spec.yaml"), number, 0.5)
    alone = text.replace("*s", "least-squares")
    assert "&s {method: least-squares, collateral_weight: 0.5}" in set_collateral_weight(
        parse(alone, "spec.yaml"), 0, 0.5
    )
