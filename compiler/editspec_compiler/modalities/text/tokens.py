"""Texts as tokens, and the token that a subject ends in. Imports no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from editspec_compiler.modalities.text.schema import BLANK, Fact
from editspec_compiler.token_bytes import BROKEN, bytes_of, show_pieces
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError, UsageError
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.json_text import parse_json
from editspec_runtime.modalities.text.fields import TOKENIZER

EXTRA = "text"

OLDER = ("tokenizer.model", "vocab.json", "merges.txt", "spiece.model")
"""The files of tokenizers of older kinds."""

NAMED_BLANK = re.compile(r"\{[^{}]*\}|\[[A-Za-z_ ]+\]|<[A-Za-z_ ]+>|%s")
"""What other programs write where a subject stands."""

UNSEEN = ("Cf", "Cc", "Cs", "Cn")
"""The categories of characters that show nothing."""

DOUBLED = f"{{{BLANK}}}"
"""What templates of other programs write where a subject stands, or where braces are meant."""


class TokenError(UsageError):
    """A text whose tokens do not give a key."""

    code = Code.TOKENS_UNFIT


@dataclass(frozen=True)
class Encoded:
    """A text as tokens.

    Attributes
    ----------
    tokens
        The numbers of the tokens.
    spans
        The characters of the text that each token stands for: begin and end.
    """

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Located:
    """A prompt as tokens, and the token of its key.

    Attributes
    ----------
    text
        The text.
    tokens
        The numbers of the tokens, with the one that begins a text where there is one.
    place
        The number of the subject's last token.
    """

    text: str
    tokens: tuple[int, ...]
    place: int


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a model.

    Attributes
    ----------
    path, modified
        Its ``tokenizer.json``, and the time of the file's last change.
    begin
        The token that begins every text; None where there is none.
    """

    path: Path
    modified: int
    begin: int | None = None

    @property
    def _own(self) -> Any:
        load_extra(EXTRA)  # even where the tokenizer was read before
        return _read_tokenizer(self.path, self.modified)

    def usual_begin(self) -> int | None:
        """The token that the tokenizer itself puts before a text; None where it puts none."""
        bare = self._own.encode("a", add_special_tokens=False).ids
        whole = self._own.encode("a", add_special_tokens=True).ids
        return int(whole[0]) if whole[0] != bare[0] else None

    @property
    def head(self) -> tuple[int, ...]:
        """The tokens that begin every text: one or none."""
        return () if self.begin is None else (self.begin,)

    def encode(self, text: str) -> Encoded:
        """Encode a text without tokens of its own for begin and end."""
        found = self._own.encode(text, add_special_tokens=False)
        return Encoded(tuple(found.ids), tuple(found.offsets))

    def encode_many(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Encode documents, each behind the token that begins a text."""
        found = self._own.encode_batch(list(texts), add_special_tokens=False)
        return [(*self.head, *each.ids) for each in found]

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode tokens to a text, without those that are no text.

        Bytes that are no whole character are shown by their numbers, such as ``<E2>``.
        """
        found = str(self._own.decode(list(tokens)))
        if BROKEN not in found:
            return found
        (shown,) = show_pieces([b"".join(map(self._bytes_of, tokens))])
        # Some tokenizers leave out the blank before a text.
        return shown if found[0].isspace() else shown.lstrip(" ")

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token by itself.

        A character of several tokens stands at the last of them, and what the others have of it is
        shown as bytes.
        """
        own = self._own
        plain = [str(own.decode([token], skip_special_tokens=False)) for token in tokens]
        if not any(BROKEN in piece for piece in plain):
            return plain
        parts = []
        for token, piece in zip(tokens, plain, strict=True):
            parts.append(self._bytes_of(token) if BROKEN in piece else piece.encode())
        return show_pieces(parts)

    def _bytes_of(self, token: int) -> bytes:
        """The bytes of a token, with a blank that it begins with; none of one that is no text."""
        own = self._own
        once, twice = (str(own.decode([token] * times)) for times in (1, 2))
        if BROKEN not in once:
            return twice[len(once) :].encode()
        return bytes_of(str(own.id_to_token(token))) or once.encode()

    def locate(self, fact: Fact, before: str = "") -> Located:
        """Locate the key of a fact behind a text `before` its prompt.

        Raises `TokenError` where the prompt has not one blank, or the subject's last token holds
        letters behind the subject.
        """
        head, tail = split_prompt(fact)
        begin = len(before) + len(head)
        text = f"{before}{head}{fact.subject}{tail}"
        return self._locate(text, begin, fact.subject, self.head)

    def first_place(self, fact: Fact) -> int:
        """The number of the first token of the subject of a fact.

        Raises `TokenError` as `locate` does.
        """
        head, tail = split_prompt(fact)
        spans = self.encode(f"{head}{fact.subject}{tail}").spans
        # Some tokens begin with the blank before the subject.
        holding = [n for n, (start, end) in enumerate(spans) if start <= len(head) < end]
        return len(self.head) + holding[0]

    def locate_behind(self, fact: Fact, before: Sequence[int]) -> Located:
        """Locate the key of a fact behind tokens `before` its prompt, and a full stop."""
        head, tail = split_prompt(fact)
        between = ". "
        text = f"{between}{head}{fact.subject}{tail}"
        begin = len(between) + len(head)
        return self._locate(text, begin, fact.subject, (*self.head, *before))

    def _locate(self, text: str, begin: int, subject: str, before: tuple[int, ...]) -> Located:
        encoded = self.encode(text)
        last = begin + len(subject) - 1
        holding = [n for n, (start, end) in enumerate(encoded.spans) if start <= last < end]
        if not holding:
            raise TokenError(
                f"No token of the text holds the end of the subject {subject}: {text}",
                "Leave out blanks around the subject.",
            )
        place = holding[-1]
        end = max(span[1] for span in (encoded.spans[number] for number in holding))
        if end > last + 1:
            shown = " | ".join(self.pieces(encoded.tokens))
            raise TokenError(
                f"The subject {subject} ends within a token: {shown}.",
                "Write the prompt so that a blank or a sign follows the subject.",
            )
        return Located(text, (*before, *encoded.tokens), len(before) + place)

    def continuation(self, prompt: Located, text: str) -> tuple[int, ...]:
        """The tokens of a text that follows a prompt, behind one blank.

        They are those of the text alone, but where the tokenizer gives the prompt with the text
        other ones, as those that put a blank before every text do.
        """
        wanted = spaced(text)
        alone = self.encode(wanted).tokens
        own = self.encode(prompt.text).tokens
        whole = self.encode(f"{prompt.text}{wanted}").tokens
        joined = whole[: len(own)] == own and len(whole) > len(own)
        return whole[len(own) :] if joined else alone


def spaced(text: str) -> str:
    """A text with one blank before it, where it has none."""
    return text if text[:1].isspace() else f" {text}"


def find_broken(text: str) -> str | None:
    """Find a character that no text has, in words; None where there is none."""
    if "\0" in text:
        return "a null character"
    return "a character that was broken when it was stored" if BROKEN in text else None


def split_prompt(fact: Fact) -> tuple[str, str]:
    """The texts before and behind the subject.

    Raises `TokenError` where there is not one place for it, or it has blanks around it.
    """
    if not fact.subject.strip():
        raise TokenError("The subject is blank.", "Write whom or what the prompt is about.")
    if fact.subject != fact.subject.strip():
        raise TokenError(
            f'There are blanks around the subject "{fact.subject}", whose last token would be one '
            "of them.",
            "Write it without them.",
        )
    _require_whole(fact)
    _require_shown_end(fact)
    count = fact.prompt.count(BLANK)
    if count == 1:
        head, _, tail = fact.prompt.partition(BLANK)
        return head, tail
    if count:
        raise TokenError(
            f"The prompt has {BLANK} {count} times, and the subject stands in one place.",
            f"Write {BLANK} once, where the subject stands.",
        )
    times = fact.prompt.count(fact.subject)
    named = NAMED_BLANK.search(fact.prompt)
    hint = f"Write {BLANK} where the subject stands."
    if named is not None:
        hint = f"Write {BLANK} in the place of {named[0]}."
    elif times == 1:
        hint = f"Write {BLANK} where {fact.subject} stands: {blanked(fact)}"
    elif times:
        hint = f"Write {BLANK} where the subject stands, which the prompt holds {times} times."
    raise TokenError(f"The prompt has no {BLANK} for the subject.", hint)


def _require_whole(fact: Fact) -> None:
    """Raise a `TokenError` where prompt or subject hold what was not meant to be text."""
    for name, text in (("prompt", fact.prompt), ("subject", fact.subject)):
        broken = find_broken(text)
        if broken is not None:
            raise TokenError(f"The {name} holds {broken}.", "Write it anew, in UTF-8.")
    if DOUBLED in fact.prompt:
        raise TokenError(
            f"The prompt has {DOUBLED}, of which the outer braces would stay in the text.",
            f"Write {BLANK} in its place.",
        )


def _require_shown_end(fact: Fact) -> None:
    """Raise a `TokenError` where the subject begins or ends in what shows nothing by itself."""
    for character in (fact.subject[0], fact.subject[-1]):
        if unicodedata.category(character) in UNSEEN:
            raise TokenError(
                "There is a character around the subject that shows nothing "
                f"(U+{ord(character):04X}), and the last token would be that of it.",
                "Write it without it.",
            )
    _, _, behind = fact.prompt.partition(BLANK)
    if behind and unicodedata.category(behind[0]).startswith("M"):
        raise TokenError(
            f"The text behind {BLANK} begins with a mark on the subject's last character.",
            "Write the mark at the end of the subject.",
        )


def blanked(fact: Fact) -> str:
    """The prompt with the blank in the place of the subject."""
    return fact.prompt.replace(fact.subject, BLANK, 1)


@lru_cache(maxsize=4)
def _read_tokenizer(path: Path, modified: int) -> Any:
    """Read a tokenizer once; `modified` is the time of the file's last change."""
    del modified
    package = load_extra(EXTRA)
    try:
        return package.Tokenizer.from_file(str(path))
    except Exception as error:
        raise FileError(
            f"{path} cannot be read as a tokenizer.",
            "Get the file again; it is the tokenizer.json of the hub.",
        ) from error


def folder_of(weights: Path) -> Path:
    """The folder of the weights of a model."""
    return weights if weights.is_dir() else weights.parent


def open_tokenizer(weights: Path, bos: bool | None) -> Tokenizer:
    """Open the tokenizer beside weights.

    `bos` says whether every text begins with a token of its own. Default: as the tokenizer has it.
    Raises `FileError` where there is no tokenizer, and `UsageError` where there is no such token.
    """
    path = folder_of(weights) / TOKENIZER
    if not path.is_file():
        hint = "Give the folder as the hub has it: config.json, *.safetensors and tokenizer.json."
        others = [name for name in OLDER if (path.parent / name).is_file()]
        if others:
            hint = (
                f"The folder has {others[0]}, of an older kind: make {TOKENIZER} of it by "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers."
            )
        raise FileError(f"{path} is missing, which makes tokens of texts.", hint)
    plain = Tokenizer(path, path.stat().st_mtime_ns)
    if bos is False:
        return plain
    begin = plain.usual_begin()
    if begin is None and bos:
        begin = _configured_begin(weights)
    return replace(plain, begin=begin)


def _configured_begin(weights: Path) -> int:
    """The token that begins a text by the configuration of the model."""
    content = parse_json((folder_of(weights) / "config.json").read_bytes())
    token = content.get("bos_token_id")
    if not isinstance(token, int):
        raise UsageError(
            "The model has no token that begins a text: config.json names no bos_token_id.",
            "Leave bos out of model.",
        )
    return token
