"""What is spread, and what of it travels to other processes."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec.commands import ci
from editspec.engine import tuning
from editspec.engine.model_session import ModelSession
from editspec.engine.resources import use_executor
from editspec.engine.trials import Judgement, TrialSolver
from editspec.modalities.text.judge import TextJudge
from editspec_runtime.core.executor import InProcess
from editspec_runtime.core.progress import no_progress
from editspec_runtime.errors import (
    CodeError,
    WorkerError,
)
from editspec_runtime.executors.local import LocalProcesses
from editspec_runtime.families.travelling import TravellingModels
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import tensor_digest
from editspec_runtime.io.foreign_code import ALLOW_CODE
from tests.commands import contents
from tests.spreading import PATIENCE, carry, moment, session_of, spec, two_of

pytestmark = [
    # The engine's own threads close their sockets when they end, which may be after a test.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ATLAS = Path(__file__).parents[2] / "specs" / "atlas"


def _weight(model: Any, item: str) -> tuple[str, Tensor]:
    return model.weights.digest(), model.weights[item]


@dataclasses.dataclass(frozen=True)
class Weighed:
    """A function that holds a model."""

    model: Any

    def __call__(self, item: str) -> tuple[str, Tensor]:
        return _weight(self.model, item)


def test_of_the_weights_only_what_has_changed_travels(folder: Path) -> None:
    session = session_of("tiny.yaml")
    base = session.current_model()
    names = list(base.weights)
    changed = base.with_weights(
        session.checkpoint.with_changes({names[1]: base.weights[names[1]] + 1})
    )
    executor = session.travelling
    assert isinstance(executor, TravellingModels)
    sizes = []
    for model in (base, changed):
        packed = pickle.dumps(carry(executor, Weighed(model)))
        sizes.append(len(packed))
        for name in names[:3]:
            digest, tensor = pickle.loads(packed)(name)
            assert digest == model.weights.digest()
            assert torch.equal(tensor, model.weights[name])
    size = base.weights[names[1]].numel() * 4
    assert size <= sizes[1] - sizes[0] < size + 500
    assert sizes[0] < 5000 < sum(tensor.numel() * 4 for tensor in base.weights.values())


def test_weights_that_are_missing_or_others_are_named(folder: Path) -> None:
    executor = session_of("tiny.yaml").travelling
    packed = pickle.dumps(carry(executor, Weighed(session_of("tiny.yaml").current_model())))
    weights = load_file("tiny.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, "tiny.safetensors")
    with pytest.raises(WorkerError, match=r"finds other weights in .*tiny"):
        pickle.loads(packed)
    Path("tiny.safetensors").unlink()
    with pytest.raises(WorkerError, match=r"does not find the weights .*tiny"):
        pickle.loads(packed)


def test_code_of_others_needs_the_permission_of_the_worker(
    folder: Path, emptied: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, processes: Any
) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))\n"
    )
    random = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (6, 8), "0.bias": (6,), "2.weight": (4, 6), "2.bias": (4,)}
    save_file(
        {name: torch.randn(shape, generator=random) for name, shape in shapes.items()},
        folder / "net.safetensors",
    )
    model = {
        "family": "torch",
        "weights": "net.safetensors",
        "module": "net:make",
        "latent_shape": [8],
    }
    content = {**yaml.safe_load(spec(600, layer="2")), "model": model}
    (folder / "net.yaml").write_text(yaml.safe_dump(content))
    with editspec.allow_code():
        session = session_of("net.yaml")
        packed = pickle.dumps(carry(session.travelling, Weighed(session.current_model())))
        with pytest.raises(CodeError, match=f"may not run .*\n.*{ALLOW_CODE}=1"):
            pickle.loads(packed)
        monkeypatch.setenv(ALLOW_CODE, "1")
        assert pickle.loads(packed)("2.bias")[0] == session.base
        # Workers that the command starts have its permission.
        monkeypatch.delenv(ALLOW_CODE)
        digests = set()
        for executor in (InProcess(), processes):
            emptied()
            digests.add(tensor_digest(moment(executor, "net.yaml")))
    assert len(digests) == 1


@pytest.mark.slow
def test_points_of_a_sweep_are_spread(folder: Path, processes: LocalProcesses) -> None:
    found = []
    for number, executor in enumerate((InProcess(), processes)):
        with use_executor(executor):
            result = editspec.sweep(
                "tiny.yaml",
                f"sweep-{number}",
                layers=["layer4", "layer5"],
                ranks=[1, 900],
                images=8,
                device="cpu",
            )
        found.append(result)
    points = [[{**point.to_dict(), "seconds": None} for point in result.points] for result in found]
    assert points[0] == points[1]
    assert [bool(point.problem) for point in found[0].points] == [False, True] * 2
    assert found[0].winner.layer == found[1].winner.layer


@pytest.mark.slow
def test_images_of_checks_and_specs_of_a_review_are_spread(
    folder: Path, emptied: Callable[[], Path], processes: LocalProcesses
) -> None:
    checks = [
        {"measure": "collateral", "images": [{"latents": [0, 1, 2, 3]}]},
        {"measure": "trace", "edit": "one"},
    ]
    # Of two layers: a review says what the cache has when it comes to a spec.
    for layer in ("layer4", "layer5"):
        content = yaml.safe_load(spec(64, layer))
        content["checks"] = [{**each, "at_most": 1} for each in checks]
        Path(f"{layer}.yaml").write_text(yaml.safe_dump(content))
    specs = ["layer4.yaml", "layer5.yaml"]
    reviews, values, files = [], [], []
    for number, each in enumerate((InProcess(), processes)):
        emptied()
        with use_executor(each):
            reviews.append(editspec.ci_review(specs, f"review-{number}", device="cpu"))
            rows = editspec.check(specs[0], device="cpu").checks
        values.append([row.value for row in rows])
        files.append(contents(Path(f"review-{number}")))
    assert reviews[0].to_dict() == reviews[1].to_dict()
    assert values[0] == values[1]
    assert values[0][0] > 0
    assert files[0] == files[1]
    assert b"### Checks" in files[0]["summary.md"]


def test_specs_of_a_review_in_a_folder_that_is_not_shared_are_named(
    folder: Path, emptied: Callable[[], Path], processes: LocalProcesses
) -> None:
    emptied()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "summary.md").write_text("another run of another machine")
    work = ci._Each(_note_path, Path("elsewhere"), "cpu", no_progress, False, Cache(folder), b"key")
    begun = time.monotonic()
    with pytest.raises(WorkerError, match=f"does not see the folder {folder} as the command"):
        list(processes.map(work, [Path("one"), Path("two")]))
    assert time.monotonic() - begun < PATIENCE / 4
    (elsewhere / "summary.md").write_text("key")
    found = list(processes.map(work, [Path("one"), Path("two")]))
    assert [each.spec for each in found] == [Path("one"), Path("two")]


def _note_path(run: ci._Run) -> ci.CiSpec:
    return ci.CiSpec(run.path, ci.PASSED)


def test_files_of_a_spec_that_workers_do_not_see_are_named(folder: Path) -> None:
    Image.new("L", (32, 32), 255).save(folder / "mask.png")
    content = yaml.safe_load(spec(64))
    content["edits"][0]["target"]["mask"] = "mask.png"
    Path("masked.yaml").write_text(yaml.safe_dump(content))
    session = session_of("masked.yaml")
    executor = session.travelling
    assert isinstance(executor, TravellingModels)
    packed = pickle.dumps(carry(executor, Named(session)))
    assert len(packed) < 20_000 < sum(each.numel() * 4 for each in session.checkpoint.values())
    assert pickle.loads(packed)("ignored") == session.base
    Image.new("L", (32, 32), 0).save(folder / "mask.png")
    with pytest.raises(WorkerError, match=r"finds another file .*mask\.png"):
        pickle.loads(packed)
    (folder / "mask.png").unlink()
    with pytest.raises(WorkerError, match=r"does not find the file .*mask\.png"):
        pickle.loads(packed)


@dataclasses.dataclass(frozen=True)
class Named:
    """A function that holds a session."""

    session: ModelSession

    def __call__(self, item: str) -> str:
        return self.session.current_model().weights.digest()


@pytest.mark.slow
def test_trials_of_a_tuning_are_spread(
    folder: Path,
    emptied: Callable[[], Path],
    processes: LocalProcesses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "REFINED", {**tuning.REFINED, "steps": 2})
    monkeypatch.setattr(tuning, "LONGER", {**tuning.LONGER, "steps": 2})
    edits = [*yaml.safe_load(spec(32))["edits"], *yaml.safe_load(spec(32, name="two"))["edits"]]
    content = {**yaml.safe_load(spec(32)), "edits": edits}
    Path("tuned.json").write_text(json.dumps(content))
    written = []
    for number, executor in enumerate((InProcess(), two_of(processes))):
        emptied()
        with use_executor(executor):
            out = Path(f"tune-{number}")
            few = {"layers": ["layer6"], "rounds": 1, "images": 16}
            editspec.tune("tuned.json", out, edit="two", device="cpu", **few)
        written.append(contents(out))
    assert written[0] == written[1]
    trials = json.loads(written[0]["tune.json"])["trials"]
    assert [trial["stage"] for trial in trials].count("last") > 2


def test_trials_of_facts_travel(tmp_path: Path, emptied: Callable[[], Path]) -> None:
    emptied()
    content = yaml.safe_load((ATLAS / "one_fact.yaml").read_text())
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({**content, "statistics": {"tokens": 512}}))
    session = session_of(str(tmp_path / "few.yaml"))
    solver = TrialSolver(session, 0, TextJudge(session, 0))
    fields = {"optimise": {"evaluations": 2}, "context": {"prefixes": 0}}
    wanted = solver(fields)
    assert isinstance(wanted, Judgement)
    packed = pickle.dumps(carry(session.travelling, solver))
    assert len(packed) < 100_000 < sum(each.numel() for each in session.checkpoint.values())
    travelled = pickle.loads(packed)
    travelled.session.cache = Cache(emptied())
    assert travelled(fields) == wanted
    assert travelled({**fields, "optimise": {"evaluations": 6}}) != wanted
