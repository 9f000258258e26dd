from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from editspec_compiler.document import Document, parse, read_document
from editspec_compiler.problems import SpecError


def value(text: str) -> Any:
    return parse(f"a: {text}").data["a"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("5e-1", 0.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("'1'", "1"),
        ('"\\/"', "/"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, wanted: Any) -> None:
    found = value(text)
    assert (found, type(found)) == (wanted, type(wanted))


def test_pyyaml_itself_reads_another_language() -> None:
    assert yaml.safe_load("[on, 010, 1:30]") == [True, 8, 90]
    assert value("[on, 010, 1:30]") == ["on", 10, "1:30"]


KEYS = st.text(
    max_size=80
)  # pyyaml takes none of more than 1,024 characters, written out; the language has none
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, PLAIN, max_size=5), st.sampled_from([None, 1, "\t"]))
def test_json_means_the_same_here(data: dict[str, Any], indent: int | str | None) -> None:
    # Infinity is no JSON; pyyaml does not take characters that JSON must escape either, but text
    # that is escaped.
    text = json.dumps(data, indent=indent).replace("Infinity", "1e999")
    assert parse(text, "x.json").data == json.loads(text)


def parsed(text: str, name: str) -> Document | SpecError:
    """The document, or the error; any other exception goes through."""
    try:
        return parse(text, name)
    except SpecError as error:
        return error


@given(st.text() | st.text(alphabet="{}[]:,-#&*!|>'\"%@` \n\tab01.~<?"))
def test_no_text_breaks_the_reader(text: str) -> None:
    for name in ("x.yaml", "x.json"):
        outcome = parsed(text, name)
        assert str(outcome) if isinstance(outcome, SpecError) else isinstance(outcome.data, dict)


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("raw") / "x.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(SpecError):
        read_document(path)


def test_positions_are_those_of_the_text() -> None:
    text = "a: 1\nb:\n  - {c: x, d: [1, 2]}\n  -   e: 5\n"
    document = parse(text)
    lines = text.splitlines()
    for path, word in (
        (("b", 0, "c"), "x"),
        (("b", 0, "d", 1), "2"),
        (("b", 1, "e"), "5"),
        (("a",), "1"),
    ):
        line, column = document.positions[path]
        assert lines[line - 1][column - 1 :].startswith(word)
    assert document.keys[("b", 1, "e")] == (4, 7)
    nowhere = document.problem(("b", 7, "x"), "message")
    assert (nowhere.line, nowhere.column) == document.positions[("b",)]


def test_aliases_are_fine_until_they_explode() -> None:
    assert parse("a: &x [1, 2]\nb: *x").data == {"a": [1, 2], "b": [1, 2]}
    deep = "[" * 5000 + "]" * 5000
    with pytest.raises(SpecError, match="nested too deeply"):
        parse(f"a: {deep}")


def test_long_lines_are_shown_around_the_place() -> None:
    text = "a: " + "x" * 5000 + "\nb: ['" + "y" * 300 + "', !!foo z]\n"
    document = parse(text)
    error = SpecError("f", document.problems, text)
    shown, caret = str(error).splitlines()[1:3]
    assert len(shown) < 120
    assert shown[caret.index("^") :].startswith("!!foo")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path).data == {"a": 1}


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_lines_may_end_as_on_other_systems(tmp_path: Path, ending: str) -> None:
    text = "version: 1\nmodel:\n  family: nothing # a note\nedits: []\n"
    plain, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    plain.write_text(text)
    other.write_bytes(text.replace("\n", ending).encode())
    wanted, found = read_document(plain), read_document(other)
    assert found.data == wanted.data
    where = ("model", "family")
    lines = [document.problem(where, "x").line for document in (wanted, found)]
    assert lines == [3, 3]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a directory"):
        read_document(tmp_path)
    with pytest.raises(SpecError, match="does not exist"):
        read_document(tmp_path / "none.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (16 * 2**20 + 1))
    with pytest.raises(SpecError, match="keep masks in files of their own"):
        read_document(large)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b: c", "a colon stands where no key can be"),
        ("a: 1\nlonely\n", "this key has no colon behind it"),
        ("a: [1, 2\nb: 3", "a colon stands where"),
        ("a: 1\n b: 2", "a colon stands where no key can be"),
        ("a:\n\tb: 1", "a tab stands at the beginning of a line"),
        ("a: *none", "no anchor has the name of this alias"),
        ('a: "open', "the text ends inside of quotes or brackets"),
        ('a: "\\q"', "there is no such escape"),
        ("a: @b", "a value cannot begin with this character"),
    ],
)
def test_syntax_is_explained_in_words_of_ours(text: str, words: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text)
    (problem,) = error.value.problems
    assert problem.message.startswith(f"not YAML: {words}")
    assert problem.hint
    assert problem.line


SPEC = "version: 1\n# a comment\nmodel:\n  weights: caf\u00e9.pt\nedits: [a, b]\n"


@pytest.mark.parametrize("text", ["\ufeff" + SPEC, SPEC.replace("\n", "\r\n"), SPEC.rstrip()])
def test_marks_and_line_ends_of_other_systems_change_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(text.encode())
    found, plain = read_document(path), parse(SPEC)
    assert (found.data, found.positions) == (plain.data, plain.positions)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a:\t1\nb: two\twords\t# why\n", {"a": 1, "b": "two\twords"}),
        ("a:\n  -\t1\n  - \t2\t\n", {"a": [1, 2]}),
        ("a: {\tb:\t1\t,\tc: 2\t}\n", {"a": {"b": 1, "c": 2}}),
        ("a: [1,\n\t2]\n", {"a": [1, 2]}),
        ("\t# a comment\na: 1\n\t\nb: 2\n", {"a": 1, "b": 2}),
        ("a: |\n  kept\tas it is\n", {"a": "kept\tas it is\n"}),
        ('a: "in\tquotes"\n', {"a": "in\tquotes"}),
        ("a: |\t\n  kept\nb: >\t # why\n  one\n  two\n", {"a": "kept\n", "b": "one two\n"}),
        ("a: |-\t# why\n  kept\nb: |2+ \t\n   kept\n\n", {"a": "kept", "b": " kept\n\n"}),
        ("a:\n- |+\t\n  kept\n\n- >1-\t\n  kept\n", {"a": ["kept\n\n", " kept"]}),
    ],
)
def test_tabs_separate(text: str, wanted: dict[str, Any]) -> None:
    assert parse(text).data == wanted


@pytest.mark.parametrize("text", ["a: |x\t\n  b\n", "a: |0\t\n  b\n", "a: |\tb\n  c\n"])
def test_a_block_of_text_begins_on_the_next_line(text: str) -> None:
    with pytest.raises(SpecError, match="not YAML"):
        parse(text)


@pytest.mark.parametrize("text", ["\ta: 1\n", "a:\n\tb: 1\n", "a:\n \t- 1\n", "a: 1\n  \tb: 2\n"])
def test_tabs_do_not_indent(text: str) -> None:
    with pytest.raises(SpecError, match="a tab stands at the beginning of a line"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: it’s “quoted” inside – of a text\n",
        'a: "“in quotes”"\n',
        "a: 1  # «a comment»\n",
        "a: prix\u00a0: 5\u00a0€\n".replace(": 5", " 5"),
        "a: <<<<<<<\nb: ======\n",
        "a: |\n  =======\n",
    ],
)
def test_characters_of_other_languages_are_text(text: str) -> None:
    assert isinstance(parse(text).data["a"], (str, int))
