"""Every example of bad input gives the message that lies beside it, through the API and through the
command line.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import editspec
from editspec_runtime.codes import Code
from editspec_runtime.errors import WrongPath
from tests.commands import run

INVALID = Path(__file__).parents[1] / "invalid"
EXAMPLES = sorted(path.name.removesuffix(".error") for path in INVALID.glob("*.error"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, without their messages."""
    copy = tmp_path_factory.mktemp("examples") / "invalid"
    return Path(shutil.copytree(INVALID, copy, ignore=shutil.ignore_patterns("*.error")))


@pytest.fixture(autouse=True)
def in_place(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run where the examples lie, so that messages hold relative paths.

    What a test leaves there is removed: a copy of all files for each takes long.
    """
    monkeypatch.chdir(examples)
    before = set(examples.iterdir())
    yield
    for path in set(examples.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_every_example_has_its_message() -> None:
    examples = sorted(
        path.name for path in INVALID.glob("*.*") if path.suffix in (".yaml", ".json")
    )
    assert examples == EXAMPLES
    assert len(EXAMPLES) > 50


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    head, _, wanted = (INVALID / f"{name}.error").read_text().partition("\n")
    number, *switches = head.removeprefix("exit ").split()
    code = int(number)
    kinds = {1: editspec.EditError, 2: (editspec.SpecError, WrongPath)}[code]
    with pytest.raises(kinds) as error, editspec.allow_code() if switches else nullcontext():
        editspec.build(name, "out", device="cpu")
    placed = isinstance(error.value, editspec.SpecError)
    assert wanted == ("" if placed else "error: ") + str(error.value) + "\n"

    result = run("build", name, "-o", "out", "--device", "cpu", *switches)
    progress = r"(?m)^(statistics of|solving) .*\n"
    assert (result.exit_code, re.sub(progress, "", result.stderr), result.stdout) == (
        code,
        wanted,
        "",
    )
    assert not Path("trap").exists()
    assert not list(Path("out").rglob("*.safetensors"))


def codes_of(name: str) -> list[str]:
    """The codes of what is wrong with an example; none where only a build finds it."""
    try:
        editspec.load(name)
    except editspec.SpecError as error:
        return [problem["code"] for problem in error.as_json()["problems"]]
    except editspec.EditError as error:
        return [error.as_json()["code"]]
    return []


def test_every_example_has_a_code_that_says_what_is_wrong() -> None:
    codes = {name: codes_of(name) for name in EXAMPLES}
    assert sum(map(len, codes.values())) > len(EXAMPLES) / 2
    for name, found in codes.items():
        assert not {Code.SPEC, Code.ERROR} & set(found), name
        assert set(found) <= set(Code), name


def test_codes_are_told_in_json() -> None:
    for name, code in (
        ("no-such-layer.yaml", Code.LAYER_UNKNOWN),
        ("check-unknown-measure.yaml", Code.MEASURE_UNKNOWN),
        ("weights-corrupt.yaml", Code.FILE),
    ):
        result = run("validate", name, "--json")
        answer = json.loads(result.stdout)["error"]
        found = answer["problems"][0]["code"] if "problems" in answer else answer["code"]
        assert found == code


def test_no_two_codes_share_a_number_or_a_name() -> None:
    parts = [code.split() for code in Code]
    for same in zip(*parts, strict=True):
        assert len(set(same)) == len(parts)


RECORDS = sorted(path.stem for path in (INVALID / "records").glob("*.json"))


@pytest.mark.parametrize("name", RECORDS)
def test_record(name: str) -> None:
    target = ["--family", "stylegan2", "--weights", "files/tiny.safetensors", "--layer", "layer5"]
    result = run("import", f"records/{name}.json", "-o", "out/spec.yaml", *target)
    wanted = (INVALID / "records" / f"{name}.json.error").read_text()
    assert (f"exit {result.exit_code}\n{result.stderr}", result.stdout) == (wanted, "")
    assert not Path("out").exists()


def test_the_files_that_they_name_are_not_what_is_wrong(tmp_path: Path) -> None:
    text = (INVALID / "rank-zero.yaml").read_text().replace("    rank: 0\n", "")
    Path("valid.yaml").write_text(text)
    spec = editspec.load("valid.yaml").spec
    assert (spec.edits[0].rank, spec.statistics.samples, spec.edits[0].solver.method) == (
        1,
        1000,
        "least-squares",
    )
