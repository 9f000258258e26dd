"""``tokenizer.json`` of a model from the fields of its GGUF file; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editspec_runtime.errors import WeightsError
from editspec_runtime.io.extra_registry import load_extra

PREFIX = "tokenizer.ggml."
CONTROL, OWN, BYTE = 3, 4, 6
"""The types of tokens that stand for no text, that users added, and that stand for a byte."""

BLANK = "▁"
"""What stands for a blank in the tokens of SentencePiece."""

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama-bpe": rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}",
}
"""Where texts are split before they are tokens, by the name of the way in a file."""

DIGITS = ("smollm",)
"""The ways that split digits, and else do as GPT-2."""

PLAIN = ("gpt-2", "default")
"""The ways of GPT-2."""

ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "pythia": "gpt-2", "olmo": "gpt-2"}

BEGINS = ("llama-bpe",)
"""The ways with a token that begins a text where the file does not say."""


def make_tokenizer(said: Mapping[str, Any]) -> bytes:
    """Make the content of ``tokenizer.json``.

    Raises
    ------
    WeightsError
        The tokenizer is of a kind that is not known here.
    UsageError
        The package ``tokenizers`` is not installed.
    """
    kind = said.get(f"{PREFIX}model")
    if kind not in MAKERS:
        raise WeightsError(
            f"This file has a tokenizer of the kind {kind}, which is not converted.",
            f"These are: {', '.join(MAKERS)}.",
        )
    load_extra("text")
    made = MAKERS[str(kind)](said)
    _add_special(made, said)
    _add_begin(made, said)
    return str(made.to_str(pretty=False)).encode()


def _tokens(said: Mapping[str, Any]) -> dict[str, int]:
    return {token: number for number, token in enumerate(said[f"{PREFIX}tokens"])}


def _make_of_bytes(said: Mapping[str, Any]) -> Any:
    """Pairs of bytes, as GPT-2 has them."""
    package = load_extra("text")
    way = said.get(f"{PREFIX}pre", PLAIN[0])
    way = ALIASES.get(way, way)
    if way not in (*SPLITS, *DIGITS, *PLAIN):
        raise WeightsError(
            f"This file splits texts in the way {way}, which is not known here: other tokens than "
            "the model's would follow.",
            f"These are known: {', '.join((*SPLITS, *DIGITS, *PLAIN))}.",
        )
    merges = [tuple(pair.split(" ")) for pair in said[f"{PREFIX}merges"]]
    model = package.models.BPE(_tokens(said), merges, ignore_merges=way == "llama-bpe")
    made = package.Tokenizer(model)
    splitters = package.pre_tokenizers
    if way in SPLITS:
        first = splitters.Split(package.Regex(SPLITS[way]), "isolated")
        steps = [first, splitters.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        steps = [splitters.ByteLevel(add_prefix_space=False, use_regex=True)]
    if way in DIGITS:
        steps.insert(0, splitters.Digits(individual_digits=True))
    if way == "qwen2":
        made.normalizer = package.normalizers.NFC()
    made.pre_tokenizer = splitters.Sequence(steps)
    made.decoder = package.decoders.ByteLevel()
    return made


def _make_of_pieces(said: Mapping[str, Any]) -> Any:
    """Pieces of SentencePiece, joined in the order of their scores."""
    package = load_extra("text")
    tokens = _tokens(said)
    merges = _merges_by_score(tokens, said[f"{PREFIX}scores"])
    unknown = said.get(f"{PREFIX}unknown_token_id", 0)
    model = package.models.BPE(
        tokens,
        merges,
        unk_token=said[f"{PREFIX}tokens"][unknown],
        fuse_unk=True,
        byte_fallback=BYTE in said[f"{PREFIX}token_type"],
    )
    made = package.Tokenizer(model)
    prepended = bool(said.get(f"{PREFIX}add_space_prefix", True))
    changes = [package.normalizers.Replace(" ", BLANK)]
    if prepended:
        changes.insert(0, package.normalizers.Prepend(BLANK))
    made.normalizer = package.normalizers.Sequence(changes)
    steps = package.decoders
    decoded = [steps.Replace(BLANK, " "), steps.ByteFallback(), steps.Fuse()]
    if prepended:
        decoded.append(steps.Strip(content=" ", left=1, right=0))
    made.decoder = steps.Sequence(decoded)
    return made


def _merges_by_score(tokens: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The pairs of tokens that make another one, the best of those first."""
    found = []
    for whole, number in tokens.items():
        for cut in range(1, len(whole)):
            first, second = whole[:cut], whole[cut:]
            if first in tokens and second in tokens:
                rank = (-scores[number], tokens[first], tokens[second])
                found.append((rank, (first, second)))
    return [pair for _, pair in sorted(found)]


MAKERS = {"gpt2": _make_of_bytes, "llama": _make_of_pieces}
"""The makers of tokenizers by the kind that a file names."""


def _add_special(made: Any, said: Mapping[str, Any]) -> None:
    """Add the tokens that are never split."""
    package = load_extra("text")
    kinds = said.get(f"{PREFIX}token_type") or []
    for token, kind in zip(said[f"{PREFIX}tokens"], kinds, strict=False):
        if kind == CONTROL:
            made.add_special_tokens([package.AddedToken(token, special=True, normalized=False)])
        elif kind == OWN:
            made.add_tokens([package.AddedToken(token, special=False, normalized=False)])


def _add_begin(made: Any, said: Mapping[str, Any]) -> None:
    """Put the token before every text that begins it, where the model has it so."""
    package = load_extra("text")
    number = said.get(f"{PREFIX}bos_token_id")
    way = said.get(f"{PREFIX}pre", "")
    usual = said[f"{PREFIX}model"] == "llama" or ALIASES.get(way, way) in BEGINS
    if number is None or not said.get(f"{PREFIX}add_bos_token", usual):
        return
    token = said[f"{PREFIX}tokens"][number]
    made.post_processor = package.processors.TemplateProcessing(
        single=[token, "$A"],
        pair=[token, "$A", token, "$B"],
        special_tokens=[(token, number)],
    )
