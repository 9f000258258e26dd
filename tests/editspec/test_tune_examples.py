"""``editspec tune`` of an edit that has many examples: these stay, and some of them judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from editspec.engine.at_edit import open_at_edit
from editspec.engine.attempts import TuningProcess
from editspec.modalities.image import engine as image_engine
from editspec.modalities.image import example_tuning, given_examples
from editspec.modalities.image.example_tuning import ExampleTuning
from editspec.modalities.image.kinds import Kind
from editspec_compiler import load
from editspec_runtime.core.progress import no_progress
from tests.commands import said

SPEC = """\
version: 1
model: {family: stylegan2, weights: tiny.safetensors}
statistics: {samples: 32}
edits:
  - name: tuned
    layer: layer5
    rank: 2
    pairs: {file: pairs.jsonl}
    preserve: [{latents: [30, 31, 32, 33, 34, 35, 36, 37]}]
    solver: {method: direct, steps: 1}
    refine: {at: output, steps: 2, weight: 8}   # on pictures
"""
MASK = {"box": [4, 4, 20, 20]}
PAIRS = [
    {
        "source": {"nearest": {"latents": [10, 11, 12]}},
        "target": {"latents": [1, 2, 3, 4], "mask": MASK},
    },
    {"source": {"latent": 13}, "target": {"latents": [5, 6, 7, 8], "mask": MASK}},
]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_examples, "MANY", 8)
    monkeypatch.setattr(example_tuning, "ADDED", 3)


@pytest.fixture
def spec(make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    save_file(make_tiny(), folder / "tiny.safetensors")
    rows = [json.dumps(row) + "\n" for row in PAIRS]
    (folder / "pairs.jsonl").write_text("".join(rows))
    (folder / "spec.yaml").write_text(SPEC)
    return folder / "spec.yaml"


def start(spec: Path) -> TuningProcess:
    session, number = open_at_edit(spec, None, "cpu", no_progress)
    return image_engine.ENGINE.start_tuning(session, number, 32, (), no_progress)


def test_examples_stay_and_more_are_preserved(spec: Path, tmp_path: Path) -> None:
    found = said("tune", spec, "-o", tmp_path / "out", "--images", 64, "--rounds", 1)
    assert "2 targets" in found["about"]
    stages = [trial["stage"] for trial in found["trials"]]
    assert stages[:3] == ["given", "steps", "steps"]
    tried = [
        (trial["refine"]["steps"], trial["refine"]["weight"]) for trial in found["trials"][1:3]
    ]
    assert tried == [(4, 2.0), (8, 0.5)]
    given, edit = (load(each).spec.edits[0] for each in (spec, tmp_path / "out" / "tuned.yaml"))
    assert edit.pairs == given.pairs
    assert edit.preserve[: len(given.preserve)] == given.preserve
    assert len(edit.preserve) == found["preserved"]
    assert found["examples"] == len(given.pairs) == 8
    text = (tmp_path / "out" / "tuned.yaml").read_text()
    assert "pairs: {file: ../here/pairs.jsonl}" in text
    assert said("build", tmp_path / "out" / "tuned.yaml", "-o", tmp_path / "built")["edits"]


def test_of_many_steps_the_weight_alone_is_tried(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_tuning, "MANY_STEPS", 2)
    found = said("tune", spec, "-o", tmp_path / "out", "--images", 32, "--rounds", 0)
    tried = [(trial["refine"]["steps"], trial["refine"]["weight"]) for trial in found["trials"][1:]]
    assert tried == [(2, 4.0), (2, 2.0)]


def test_what_judges_is_in_no_trial(spec: Path) -> None:
    run = start(spec)
    assert isinstance(run, ExampleTuning)
    examples = run.examples
    fields = examples.trial_fields({}, [50])
    targets = {pair["target"]["latent"] for pair in fields["pairs"]}
    kept = {place["latent"] for place in fields["preserve"]}
    judged = {wish.output.scene.latent for wish in examples.judge.wishes}
    assert judged == {4, 8}
    assert not judged & targets
    assert kept == {30, 31, 32, 34, 35, 36, 50}
    assert len(examples.judge.latents) >= 2
    before = examples.generator.images(torch.zeros(1, examples.generator.architecture.latent_size))
    assert before.shape[-1] == examples.judge.views.shape[-1]
    # The model as it is does nothing of what is asked, and changes nothing.
    unedited = examples.judge(examples.generator)
    assert (unedited.efficacy, unedited.trace) == (0.0, 0.0)


def test_few_examples_or_no_steps_are_tuned_by_images_that_are_found(spec: Path) -> None:
    spec.write_text(SPEC.replace("    refine", "    # refine"))
    assert not isinstance(start(spec), ExampleTuning)
    spec.write_text(SPEC.replace(", 37]", "]"))
    assert not isinstance(start(spec), ExampleTuning)


def test_a_kind_is_told_from_another() -> None:
    random = torch.Generator().manual_seed(0)
    step = torch.zeros(200)
    step[:20] = 1.0
    ones, others = torch.randn(2, 60, 200, generator=random)
    kind = Kind.learn(ones[:30] + step, others[:30] - step)
    unseen = kind.contains(torch.cat([ones[30:] + step, others[30:] - step]))
    assert 6 <= int(unseen[:30].sum()) <= 24
    assert int(unseen[30:].sum()) <= 1
    # Of two kinds that are one, as many of each are found.
    same = Kind.learn(ones[:30], others[:30]).contains(torch.cat([ones[30:], others[30:]]))
    assert int(same[30:].sum()) > 3
