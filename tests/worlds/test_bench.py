from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
import yaml

from editspec.worlds.skyline import WORLD, WORLDS
from editspec.worlds.skyline.bench import experiments
from editspec.worlds.skyline.bench import run as bench_run
from editspec_compiler import load
from tests.commands import run, said

PLACE = {"latent": 3, "mask": {"box": [8, 4, 24, 30]}}


def edit(name: str, method: str) -> dict[str, Any]:
    limited = method != "all-weights" and method != "layer"
    return {
        "name": name,
        "layer": "layer8",
        "source": {**PLACE, "latent": 4},
        "target": PLACE,
        "solver": {
            "method": method,
            "steps": 3,
            "learning_rate": 0.0005 if method == "all-weights" else 0.005,
        },
    } | ({"rank": 1} if limited else {})


def write_spec(path: Path, edits: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "builtin:skyline"},
        "statistics": {"samples": 64},
        "edits": edits,
    }
    path.write_text(yaml.safe_dump(spec))


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specs of one experiment, whose edits take a few steps."""
    specs = tmp_path_factory.mktemp("specs")
    for row in ("projected-gradient", "layer", "all-weights"):
        write_spec(specs / "dome-to-spire" / f"{row}.yaml", [edit(row, row)])
    write_spec(
        specs / "succession.yaml", [edit(name, "direct") for name in ("one", "two", "three")]
    )
    return specs


def take_specs(specs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bench be of these specs alone, with few images in its pictures."""
    monkeypatch.setattr(bench_run, "SHOWN", 2)
    monkeypatch.setattr(experiments, "folder", lambda: specs)
    monkeypatch.setattr(bench_run, "specs_folder", lambda: specs)
    monkeypatch.setattr(
        bench_run, "EXPERIMENTS", {"dome-to-spire": experiments.EXPERIMENTS["dome-to-spire"]}
    )


@pytest.fixture
def small(specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bench of one experiment whose edits take a few steps; gives the folder to write into."""
    take_specs(specs, monkeypatch)
    return tmp_path / "out"


@pytest.fixture(scope="module")
def whole(
    specs: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a bench that was run to its end, and its result."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        take_specs(specs, patch)
        patch.setenv("EDITSPEC_CACHE", str(shared_cache))
        return out, bench(out)


def bench(out: Path, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = said("bench", "paper", "-o", out, "--images", 8, *more)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_every_row_is_measured_and_a_second_run_measures_nothing(
    whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = whole
    (table,) = first["tables"]
    rows = {row["row"]: row for row in table["rows"]}
    assert list(rows) == [
        "projected-gradient",
        "layer",
        "all-weights",
        "propagated-copying",
        "propagated-laplace",
        "unmodified",
    ]
    for row in rows.values():
        assert row["n"] == 8
        assert {"efficacy", "outside", "distance", "seconds"} <= set(row)
        for name, (low, high) in row["intervals"].items():
            assert low <= row[name] <= high
        assert {"efficacy", "recovered", "outside_99", "trace"} <= set(row["intervals"])
    assert rows["unmodified"]["outside"] == 0 < rows["layer"]["outside"]
    assert rows["unmodified"]["recovered"] == rows["unmodified"]["trace"] == 0
    assert rows["projected-gradient"]["published"]["% changed"] == "92.03"
    assert {(entry["edit"], entry["after"]) for entry in first["succession"]["retention"]} == {
        ("one", "one"),
        ("one", "two"),
        ("one", "three"),
        ("two", "two"),
        ("two", "three"),
        ("three", "three"),
    }
    assert json.loads((out / "bench.json").read_text()) == first
    assert (
        "| Our method (projected gradient descent) | layer8 | 1 | 3 |"
        in (out / "bench.md").read_text()
    )
    assert (out / "dome-to-spire.png").exists()
    assert (out / "succession.png").exists()

    def measured(*given: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(bench_run, "readings", measured)
    assert bench(out) == first


@pytest.mark.slow
def test_an_interrupted_bench_goes_on(small: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    class Stopped(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if "measuring propagated-copying" in what:
            raise Stopped

    with pytest.raises(Stopped):
        bench_run.bench_paper(small, images=8, progress=stop)
    solved: list[str] = []
    resumed = bench_run.bench_paper(
        small, images=8, progress=lambda what, done, total: solved.append(what)
    )
    assert not any(
        "solving projected-gradient" in what or "solving layer" in what for what in solved
    )
    _, uninterrupted = whole

    def numbers(result: dict[str, Any]) -> list[dict[str, Any]]:
        rows = [row for table in result["tables"] for row in table["rows"]]
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    assert numbers(resumed.to_dict()) == numbers(uninterrupted)


@pytest.mark.slow
@pytest.mark.usefixtures("whole", "one_cache")  # what is solved is in the cache
def test_other_features_are_used_and_named(small: Path, tmp_path: Path) -> None:
    class Halves(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [torch.nn.functional.avg_pool2d(images, 2)]

    shapes = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Halves(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "halves.pt2")
    other = bench(small, "--backbone", str(tmp_path / "halves.pt2"))
    assert other["features"]["name"] == "halves.pt2"
    result = run("bench", "paper", "-o", small, "--images", "8")
    assert result.exit_code == 1
    assert "a folder of its own for each backbone" in result.stderr


@pytest.mark.parametrize(("name", "code"), [("nothing.pt2", 2), ("text.pt2", 1), ("empty.pt2", 1)])
def test_a_backbone_that_cannot_be_read(
    name: str, code: int, small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.pt2").write_text("no program")
    ZipFile(tmp_path / "empty.pt2", "w").close()
    arguments = ["bench", "paper", "-o", str(small), "--backbone", str(tmp_path / name)]
    result = run(*arguments)
    assert result.exit_code == code
    assert name in result.stderr
    assert "Traceback" not in result.stderr
    # Where torch's log goes depends on who imported torch: here it must have nothing to write.
    assert not caplog.records


def test_a_backbone_that_holds_more_than_a_program_is_not_given_to_torch(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ZipFile(tmp_path / "more.pt2", "w") as archive:
        archive.writestr("more/models/model.json", "{}")
        archive.writestr("more/data/aotinductor/model.so", "code")
    given: list[object] = []
    monkeypatch.setattr(torch.export, "load", given.append)
    result = run("bench", "paper", "-o", small, "--backbone", tmp_path / "more.pt2")
    assert result.exit_code == 1
    assert "It was not executed" in " ".join(result.stderr.split())
    assert not given


class Doubled(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images * 2]


class Pooled(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 2)


@pytest.mark.parametrize(
    ("network", "shape", "words"),
    [
        (Doubled(), (10,), "does not take 1 x 3 x 64 x 64"),
        (Pooled(), (3, 64, 64), "gives no list of feature maps"),
    ],
)
def test_a_backbone_of_another_kind(
    network: torch.nn.Module, shape: tuple[int, ...], words: str, small: Path, tmp_path: Path
) -> None:
    shapes = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(network, (torch.zeros(2, *shape),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "other.pt2")
    result = run("bench", "paper", "-o", small, "--backbone", tmp_path / "other.pt2")
    assert result.exit_code == 1
    assert words in " ".join(result.stderr.split())


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run("bench", "paper", "-o", tmp_path, "--images", "8")
    assert result.exit_code == 1
    assert "in the way" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_every_experiment_has_its_specs() -> None:
    for experiment in experiments.EXPERIMENTS.values():
        specs = experiment.specs(WORLD.name)
        rows = set(experiment.published) - {*experiments.PROPAGATED, experiments.UNMODIFIED}
        if experiment.name in ("dark-windows-to-lit", "dome-to-spire"):
            rows.add(experiments.RECIPE)
        assert rows <= set(specs)
        for path in specs.values():
            assert load(path).spec.edits
    assert len(load(experiments.folder() / "succession.yaml").spec.edits) == len(
        experiments.SUCCESSION
    )


def test_a_world_has_its_own_recipe_where_there_is_one() -> None:
    for name, own in (("dome-to-spire", True), ("dark-windows-to-lit", False)):
        first, second = (experiments.EXPERIMENTS[name].specs(world) for world in WORLDS)
        assert (first[experiments.RECIPE] != second[experiments.RECIPE]) == own
        assert {**first, experiments.RECIPE: None} == {**second, experiments.RECIPE: None}
        for world, specs in zip(WORLDS.values(), (first, second), strict=True):
            weights = load(specs[experiments.RECIPE]).spec.model.weights
            assert (weights == world.builtin) == (own or world is WORLD)
