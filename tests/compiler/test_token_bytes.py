"""Tokens that are parts of a character, as people read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editspec_compiler.modalities.text.schema import Fact
from editspec_compiler.modalities.text.tokens import Tokenizer
from editspec_compiler.token_bytes import BROKEN, byte_alphabet, show_pieces, show_written
from tests.commands import said

tokenizers = pytest.importorskip("tokenizers")

GOLDEN = Path(__file__).parents[1] / "golden" / "transformer"
TOWER = "\U0001f5fc"
"""A character of four bytes."""


def bytes_alone() -> Any:
    """A tokenizer whose tokens are bytes, as GPT-2 writes them, with a special one."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({each: number for number, each in enumerate(alphabet)}, [])
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


def bytes_beside_words() -> Any:
    """A tokenizer of SentencePiece's kind: words, and bytes for all else."""
    words = ["<unk>", "▁", "▁see", "é", *(f"<0x{byte:02X}>" for byte in range(0x100))]
    known = {word: number for number, word in enumerate(words)}
    model = tokenizers.models.BPE(
        known | {"s": 900, "e": 901, "se": 902, "see": 903},
        [("s", "e"), ("se", "e"), ("▁", "see")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    steps = tokenizers.decoders
    made.decoder = steps.Sequence(
        [
            steps.Replace("▁", " "),
            steps.ByteFallback(),
            steps.Fuse(),
            steps.Strip(content=" ", left=1, right=0),
        ]
    )
    return made


MAKERS: dict[str, Callable[[], Any]] = {"gpt2": bytes_alone, "sentencepiece": bytes_beside_words}


@pytest.fixture(params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """A tokenizer that cuts a tower into four tokens."""
    path = tmp_path / "tokenizer.json"
    MAKERS[request.param]().save(str(path))
    return Tokenizer(path, path.stat().st_mtime_ns)


def test_the_alphabet_is_that_of_the_library() -> None:
    assert sorted(byte_alphabet()) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = bytes_alone()
    for byte in b"A \n\x7f":
        (written,) = made.encode(chr(byte)).tokens
        assert byte_alphabet()[written] == byte


def test_a_character_stands_at_the_token_that_completes_it(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(f"see {TOWER}").tokens
    pieces = tokenizer.pieces(tokens)
    assert pieces[-4:] == ["<F0>", "<9F>", "<97>", TOWER]
    # By itself, none of them is a character.
    assert tokenizer.pieces(tokens[-1:]) == ["<BC>"]
    assert BROKEN not in "".join(tokenizer.pieces(tokens[:-1]))


def test_a_text_that_breaks_off_ends_in_bytes(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(f"see {TOWER}").tokens
    assert tokenizer.decode(tokens) == f"see {TOWER}"
    assert tokenizer.decode(tokens[:-1]) == "see <F0><9F><97>"
    # Whole characters behind them stay as they are.
    twice = tokenizer.decode([*tokens, *tokens])
    rest = twice.removeprefix(f"see {TOWER}")
    assert tokenizer.decode([*tokens[:-1], *tokens]) == f"see <F0><9F><97>{rest}"


def test_what_is_no_text_is_left_out_of_a_broken_one(tmp_path: Path) -> None:
    made = bytes_alone()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    tokenizer = Tokenizer(path, path.stat().st_mtime_ns)
    tokens = [*tokenizer.encode(TOWER).tokens[:2], made.token_to_id("<end>")]
    assert tokenizer.decode(tokens) == "<F0><9F>"
    assert tokenizer.pieces(tokens) == ["<F0>", "<9F>", "<end>"]


def test_parts_that_hold_more_than_one_character() -> None:
    assert show_pieces(["é".encode(), b" a\xe4", b"\xb8\xad\xe4"]) == ["é", " a<E4>", "中<E4>"]
    assert show_pieces([b"\xff", b"", b"a"]) == ["<FF>", "", "a"]


def test_a_vocabulary_that_writes_no_bytes_stays_as_it_is() -> None:
    assert show_written(["caf", "Ã©"]) == ("caf", "é")
    assert show_written(["caf", "Ã", "©"]) == ("caf", "<C3>", "é")
    assert show_written(["café", "中"]) == ("café", "中")


def test_validate_shows_the_bytes_of_a_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "models" / "llama", "model")
    bytes_alone().save("model/tokenizer.json")
    edit = {
        "name": "e",
        "layer": "layer1",
        "target": {"prompt": "I see {} in", "subject": TOWER},
        "source": {"text": "Rome"},
    }
    spec = {
        "version": 1,
        "model": {"family": "transformer", "weights": "model"},
        "edits": [edit],
    }
    Path("spec.json").write_text(json.dumps(spec))
    (found,) = said("validate", "spec.json")["edits"]
    (key,) = found["keys"]
    assert key["token"] == TOWER
    assert key["tokens"][6:10] == ["<F0>", "<9F>", "<97>", TOWER]


def test_texts_before_a_prompt_are_never_made_tokens_again(tokenizer: Tokenizer) -> None:
    """What was drawn as tokens stays these tokens, also where a text of them has others."""
    drawn = tokenizer.encode(TOWER).tokens[:2]
    located = tokenizer.locate_behind(Fact(prompt="I see {} in", subject="see"), drawn)
    assert located.tokens[: len(drawn)] == drawn
    assert tokenizer.encode(tokenizer.decode(drawn)).tokens != drawn
