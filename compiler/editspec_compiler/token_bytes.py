"""Tokens that are bytes, in words for people. Imports no torch.

Tokenizers cut rare characters into bytes, so that a token may hold a part of one. What a token
completes is shown as a character, and any other byte by its number, such as ``<E2>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

BROKEN = "\ufffd"
"""What libraries write in the place of bytes that are no character."""

NUMBERED = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece writes a token of one byte."""

LONGEST = 4
"""The most bytes of a character in UTF-8."""


@cache
def byte_alphabet() -> dict[str, int]:
    """The characters by which the tokenizers of GPT-2 write bytes, with these bytes."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(0x100) if byte not in seen]
    found = {chr(byte): byte for byte in seen}
    # Blanks and signs of control are written by the characters from 256 on.
    found |= {chr(0x100 + number): byte for number, byte in enumerate(unseen)}
    return found


def bytes_of(written: str) -> bytes | None:
    """The bytes of a token as a vocabulary writes it; None where it does not write bytes."""
    numbered = NUMBERED.fullmatch(written)
    if numbered is not None:
        return bytes([int(numbered[1], 16)])
    alphabet = byte_alphabet()
    if not all(character in alphabet for character in written):
        return None
    return bytes(alphabet[character] for character in written)


def show_pieces(parts: Sequence[bytes]) -> list[str]:
    """Show the parts of a text in UTF-8, each by itself.

    A character that lies in several parts stands in the last of them. Its bytes before, and those
    that are no character, are shown by their numbers.
    """
    whole = b"".join(parts)
    owners = [number for number, part in enumerate(parts) for _ in part]
    shown = [""] * len(parts)
    place = 0
    while place < len(whole):
        character = _character_at(whole, place)
        size = len(character.encode())
        last = owners[place + max(size, 1) - 1]
        for byte, owner in zip(whole[place:], owners[place : place + max(size, 1)], strict=False):
            if not size or owner != last:
                shown[owner] += f"<{byte:02X}>"
        shown[last] += character
        place += max(size, 1)
    return shown


def _character_at(text: bytes, place: int) -> str:
    """The character that begins at a byte; empty where none does."""
    for size in range(1, LONGEST + 1):
        try:
            return text[place : place + size].decode()
        except UnicodeDecodeError:
            continue
    return ""


def show_written(tokens: Sequence[str]) -> tuple[str, ...]:
    """Show the tokens of a text, as a vocabulary of bytes writes them.

    They stay as they are where the vocabulary writes no bytes.
    """
    parts = [bytes_of(token) for token in tokens]
    known = [part for part in parts if part is not None]
    try:
        b"".join(known).decode()
    except UnicodeDecodeError:
        return tuple(tokens)
    return tuple(tokens) if len(known) < len(parts) else tuple(show_pieces(known))
