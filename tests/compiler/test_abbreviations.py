"""What an edit abbreviates is the same, to the digest, as what is written out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from editspec.engine.choices import Choice, rewrite_winner
from editspec.engine.lock import edit_settings
from editspec_compiler import LoadedSpec, SpecError, abbreviations, load, row_files
from editspec_compiler.digests import edit_digest
from editspec_compiler.document import parse
from editspec_runtime.codes import Code
from tests.compiler.test_schema import LEAST, VALIDATOR
from tests.conftest import INVALID

Write = Callable[..., Path]

MASK = {"box": [2, 2, 10, 10]}
SOURCE = {"latent": 2, "mask": MASK}


def loaded(write: Write, folder: Path, **fields: Any) -> LoadedSpec:
    return load(write(folder, **fields))


def pair(source: dict[str, Any], target: int) -> dict[str, Any]:
    return {"source": source, "target": {"latent": target, "mask": MASK}}


def places(*latents: Any, **fields: Any) -> list[dict[str, Any]]:
    return [{"latent": latent, **fields} for latent in latents]


TARGETS = {"latents": [3, 5], "mask": MASK}
NO_SIDES = {"source": None, "target": None}


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (
            {"source": SOURCE, "target": TARGETS},
            {"pairs": [pair(SOURCE, 3), pair(SOURCE, 5)], **NO_SIDES},
        ),
        (
            {"source": {"latents": [8, 2], "mask": MASK}, "target": TARGETS},
            {"pairs": [pair(SOURCE | {"latent": 8}, 3), pair(SOURCE, 5)], **NO_SIDES},
        ),
        (
            {"pairs": [pair(SOURCE, 1), {"source": SOURCE, "target": TARGETS}], **NO_SIDES},
            {"pairs": [pair(SOURCE, 1), pair(SOURCE, 3), pair(SOURCE, 5)], **NO_SIDES},
        ),
        (
            {"source": SOURCE, "target": {"latents": [3], "mask": MASK}},
            {"source": SOURCE, "target": {"latent": 3, "mask": MASK}},
        ),
        (
            {"source": {"erase": {"units": 2}}, "target": TARGETS},
            {
                "pairs": [pair({"erase": {"units": 2}}, 3), pair({"erase": {"units": 2}}, 5)],
                **NO_SIDES,
            },
        ),
        (
            {"context": [{"latents": [3, [0.5] * 8], "mask": MASK, "weight": 2}]},
            {"context": places(3, [0.5] * 8, mask=MASK, weight=2)},
        ),
        (
            {"preserve": [{"latents": [3, 5]}, {"latent": 7}]},
            {"preserve": places(3, 5, 7)},
        ),
    ],
    ids=["targets", "sides", "pairs", "one", "erase", "context", "preserve"],
)
def test_several_images_are_places_of_one_each(
    tiny_spec: Write, tmp_path: Path, short: dict[str, Any], long: dict[str, Any]
) -> None:
    first = loaded(tiny_spec, tmp_path, **short)
    second = loaded(tiny_spec, tmp_path, **long)
    assert first.spec == second.spec
    assert edit_digest(first, 0) == edit_digest(second, 0)


def test_their_order_counts(tiny_spec: Write, tmp_path: Path) -> None:
    digests = set()
    for latents in ([3, 5], [5, 3]):
        spec = loaded(tiny_spec, tmp_path, context=[{"latents": latents, "mask": MASK}])
        digests.add(edit_digest(spec, 0))
    assert len(digests) == 2


def test_problems_stand_where_they_are_written(tiny_spec: Write, tmp_path: Path) -> None:
    context = [{"latents": [1, 2], "mask": MASK}, {"latents": [3, "x"], "mask": MASK}]
    path = tiny_spec(tmp_path, context=context, target={"latents": [3, -5], "mask": MASK})
    with pytest.raises(SpecError) as error:
        load(path)
    found = {problem.path: problem for problem in error.value.problems}
    assert set(found) == {
        ("edits", 0, "context", 1, "latents", 1),
        ("edits", 0, "target", "latents", 1),
    }
    wrong = found["edits", 0, "target", "latents", 1]
    text = path.read_text().splitlines()[wrong.line - 1]
    assert text[wrong.column - 1 :].startswith("-5")


def test_what_only_a_build_finds_is_shown_there_too(tiny_spec: Write, tmp_path: Path) -> None:
    spec = loaded(tiny_spec, tmp_path, preserve=[{"latent": 1}, {"latents": [2, 3]}])
    error = spec.error(("edits", 0, "preserve", 2, "latent"), "nothing is there")
    assert error.problems[0].path == ("edits", 0, "preserve", 1, "latents", 1)


def test_a_small_text_does_not_become_too_many_values(tiny_spec: Write, tmp_path: Path) -> None:
    units = {"layer": "layer3", "units": [0] * 2000, "value": 1, "mask": MASK}
    many = {"latents": list(range(2000)), "mask": MASK, "intervene": units}
    with pytest.raises(SpecError) as error:
        loaded(tiny_spec, tmp_path, target=many)
    assert [problem.code for problem in error.value.problems] == [Code.TEXT_TOO_LARGE]


def test_a_winner_names_the_files_of_all_its_images(tiny_spec: Write, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.zeros(8, np.float32))
    latents = [4, {"file": "z.npy"}]
    path = tiny_spec(tmp_path, context=[{"latents": latents, "mask": MASK}, *places(1, mask=MASK)])
    (tmp_path / "out").mkdir()
    text = rewrite_winner(load(path), tmp_path / "out", Choice("layer5", 2))
    (edit,) = parse(text, "spec.yaml").data["edits"]
    assert edit["context"] == [
        {"latents": [4, {"file": "../z.npy"}], "mask": MASK},
        {"latent": 1, "mask": MASK},
    ]


def test_the_json_schema_takes_one_or_several() -> None:
    for given, fits in (
        ({"latents": [1, 2]}, True),
        ({"latent": 1}, True),
        ({"latent": 1, "latents": [1, 2]}, False),
        ({"latents": []}, False),
        ({}, False),
    ):
        edit = json.loads(json.dumps(LEAST["edits"][0]))
        edit["context"] = [{**given, "mask": "m.png"}]
        assert VALIDATOR.is_valid({**LEAST, "edits": [edit]}) == fits, given


PAIRS = [pair(SOURCE, 3), {"source": SOURCE, "target": {"latents": [5, 6], "mask": MASK}}]
KEPT = [{"latent": 5, "weight": 2.0}, {"latent": 7, "mask": {"box": [1, 1, 9, 9]}}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Write rows into a file, in the format that its name says, and what names it in a spec."""
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text('latent,mask,weight\r\n5,,2\r\n\r\n7,"{box: [1, 1, 9, 9]}",\r\n')
    return {"file": path.name}


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_rows_of_a_file_are_entries_of_the_list(
    tiny_spec: Write, tmp_path: Path, ending: str
) -> None:
    kept = write_rows(tmp_path / f"kept.{ending}", KEPT)
    first, last = {"latents": [1, 2]}, {"latent": 8}
    mixed = loaded(tiny_spec, tmp_path, preserve=[first, kept, last])
    long = loaded(tiny_spec, tmp_path, preserve=[*places(1, 2), *KEPT, last])
    assert mixed.spec == long.spec
    assert edit_digest(mixed, 0) == edit_digest(long, 0)
    alone = loaded(tiny_spec, tmp_path, preserve=kept)
    assert alone.spec == loaded(tiny_spec, tmp_path, preserve=KEPT).spec


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_pairs_of_a_file_are_those_of_the_spec(
    tiny_spec: Write, tmp_path: Path, ending: str
) -> None:
    rows = write_rows(tmp_path / f"pairs.{ending}", PAIRS)
    short = loaded(tiny_spec, tmp_path, pairs=rows, **NO_SIDES)
    long = loaded(tiny_spec, tmp_path, pairs=PAIRS, **NO_SIDES)
    assert short.spec == long.spec
    assert edit_digest(short, 0) == edit_digest(long, 0)
    write_rows(tmp_path / f"pairs.{ending}", PAIRS[:1])
    fewer = loaded(tiny_spec, tmp_path, pairs=rows, **NO_SIDES)
    assert edit_digest(fewer, 0) != edit_digest(long, 0)


def test_the_columns_of_a_table_lead_into_parts(tiny_spec: Write, tmp_path: Path) -> None:
    shutil.copy(INVALID / "files" / "region.png", tmp_path / "m.png")
    (tmp_path / "pairs.csv").write_text(
        "source.latent,source.mask,target.latent,target.mask\n"
        '2,m.png,3,m.png\n"[0.5, 0, 0, 0, 0, 0, 0, 1]",m.png,4,"{""box"": [2, 2, 10, 10]}"\n'
    )
    spec = loaded(tiny_spec, tmp_path, pairs={"file": "pairs.csv"}, **NO_SIDES).spec
    plain = [each.model_dump(exclude_none=True) for each in spec.edits[0].pairs]
    assert plain == [
        {"source": {"latent": 2, "mask": "m.png"}, "target": {"latent": 3, "mask": "m.png"}},
        {
            "source": {"latent": [0.5, 0, 0, 0, 0, 0, 0, 1], "mask": "m.png"},
            "target": {"latent": 4, "mask": MASK},
        },
    ]


def test_files_that_rows_name_count_in_the_digest(tiny_spec: Write, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.zeros(8, np.float32))
    rows = write_rows(tmp_path / "kept.jsonl", [{"latent": {"file": "z.npy"}}])
    spec = loaded(tiny_spec, tmp_path, preserve=rows)
    before = edit_digest(spec, 0)
    np.save(tmp_path / "z.npy", np.ones(8, np.float32))
    assert edit_digest(spec, 0) != before


def test_how_a_file_is_laid_out_does_not_count(tiny_spec: Write, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "kept.jsonl", KEPT)
    spec = loaded(tiny_spec, tmp_path, preserve=rows)
    (tmp_path / "kept.jsonl").write_text(
        '{"weight": 2, "latent": 5}\n{"mask":{"box":[1,1,9,9]},"latent":7}'
    )
    assert edit_digest(load(spec.path), 0) == edit_digest(spec, 0)


def test_what_a_build_finds_in_a_row_is_shown_there(tiny_spec: Write, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "kept.jsonl", [{"latent": 1}, {"latents": [2, 3]}])
    spec = loaded(tiny_spec, tmp_path, preserve=[{"latent": 4}, rows])
    text = str(spec.error(("edits", 0, "preserve", 3, "latent"), "nothing is there"))
    assert text.splitlines()[:2] == [
        "kept.jsonl:3:17: edits[0].preserve[1].file[1].latents[1]: nothing is there",
        '  3 | {"latents": [2, 3]}',
    ]


def test_rows_that_are_too_many_are_not_read(
    tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "MOST_ROWS", 3)
    monkeypatch.setattr(row_files, "MAX_BYTES", 200)
    for count, codes in ((3, []), (4, [Code.TEXT_TOO_LARGE]), (20, [Code.TEXT_TOO_LARGE])):
        rows = write_rows(tmp_path / "kept.jsonl", places(*range(count)))
        path = tiny_spec(tmp_path, preserve=rows)
        found = []
        try:
            load(path)
        except SpecError as error:
            found = [problem.code for problem in error.problems]
        assert found == codes


def test_values_of_rows_are_counted(
    tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abbreviations, "MOST_VALUES", 10)
    rows = write_rows(tmp_path / "kept.jsonl", [{"latent": [0.5] * 8}] * 2)
    with pytest.raises(SpecError) as error:
        loaded(tiny_spec, tmp_path, preserve=rows)
    assert [problem.code for problem in error.value.problems] == [Code.TEXT_TOO_LARGE]


@pytest.mark.parametrize(
    "row",
    [
        '{"latent": ' + "9" * 400 + "}",
        '{"latent": ' + "[" * 200 + "]" * 200 + "}",
        '{"latent": {"file": "\\ud800.npy"}}',
        '{"latent": Infinity}',
    ],
    ids=["digits", "nested", "surrogate", "infinity"],
)
def test_rows_are_read_within_bounds(tiny_spec: Write, tmp_path: Path, row: str) -> None:
    (tmp_path / "kept.jsonl").write_text(f'{{"latent": 3}}\n{row}\n')
    with pytest.raises(SpecError) as error:
        loaded(tiny_spec, tmp_path, preserve={"file": "kept.jsonl"})
    (problem,) = error.value.problems
    assert problem.row is not None
    assert (problem.row.file, problem.row.line) == ("kept.jsonl", 2)


def test_a_winner_finds_its_rows_and_their_files(tiny_spec: Write, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.zeros(8, np.float32))
    plain = write_rows(tmp_path / "kept.csv", KEPT)
    naming = write_rows(tmp_path / "places.jsonl", places({"file": "z.npy"}, 3, mask=MASK))
    path = tiny_spec(tmp_path, preserve=[plain], context=[naming])
    (tmp_path / "out").mkdir()
    text = rewrite_winner(load(path), tmp_path / "out", Choice("layer5", 2))
    (edit,) = parse(text, "spec.yaml").data["edits"]
    assert edit["preserve"] == [{"file": "../kept.csv"}]
    assert edit["context"] == places({"file": "../z.npy"}, 3, mask=MASK)
    winner = tmp_path / "out" / "winner.yaml"
    winner.write_text(text)
    assert load(winner).spec.edits[0].preserve == load(path).spec.edits[0].preserve


def test_a_lock_of_many_rows_can_be_read(tiny_spec: Write, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "kept.jsonl", places(*range(300)))
    settings = edit_settings(loaded(tiny_spec, tmp_path, preserve=rows), 0)
    assert settings["preserve"].startswith("sha256:")
    rows = write_rows(tmp_path / "kept.jsonl", places(*range(256)))
    assert len(edit_settings(loaded(tiny_spec, tmp_path, preserve=rows), 0)["preserve"]) == 256


def test_the_json_schema_takes_files_of_rows() -> None:
    edit = json.loads(json.dumps(LEAST["edits"][0]))
    rows = {"file": "rows.jsonl"}
    for fields, fits in (
        ({"preserve": rows}, True),
        ({"preserve": [{"latent": 3}, rows], "context": rows}, True),
        ({"preserve": [{"file": 3}]}, False),
        ({"target": rows}, False),
    ):
        assert VALIDATOR.is_valid({**LEAST, "edits": [{**edit, **fields}]}) == fits, fields
