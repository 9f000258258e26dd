"""Prompts as the tokens of a model's text encoders. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from editspec_compiler.token_bytes import show_written
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError, UsageError
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.json_text import JsonError, parse_json
from editspec_runtime.modalities.text_to_image.fields import TOKENIZERS
from editspec_runtime.modalities.text_to_image.tokens import PromptTokens

EXTRA, LIBRARY = "diffusion", "tokenizers"

WINDOW = 77
"""The number of tokens that a text encoder of CLIP reads, where its tokenizer does not say it."""

WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""What CLIP's tokenizer cuts a text into."""

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


class PromptError(UsageError):
    """A prompt that cannot be what it is asked to be."""

    code = Code.PROMPT_UNFIT


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as tokens.

    Attributes
    ----------
    text
        The prompt.
    tokens
        Of each text encoder, the tokens padded to its window.
    own
        The tokens of the first one without padding: begin, content, end.
    pieces
        These as the vocabulary writes them, without its marks of the ends of words.
    window
        The number of tokens with padding.
    """

    text: str
    tokens: PromptTokens
    own: tuple[int, ...]
    pieces: tuple[str, ...]
    window: int

    @property
    def shown(self) -> tuple[str, ...]:
        """The pieces for people: characters in the place of bytes, where they are whole."""
        return show_written(self.pieces)

    @property
    def content(self) -> range:
        """The places of the tokens of the text itself."""
        return range(1, len(self.own) - 1)

    @property
    def last(self) -> int:
        """The place of the last token of the text; of an empty text, that of the begin."""
        return len(self.own) - 2

    @property
    def behind(self) -> range:
        """The places of the end and of the padding."""
        return range(len(self.own) - 1, self.window)


@dataclass(frozen=True)
class PromptTokenizer:
    """The tokenizers of a model, one for each text encoder.

    Attributes
    ----------
    folders
        Their folders, with the times of the last change of what lies there.
    """

    folders: tuple[tuple[Path, int], ...]

    def encode(self, text: str) -> EncodedPrompt:
        """Encode a prompt.

        Raises `PromptError` where it has more tokens than the text encoder reads.
        """
        padded = []
        encodings = []
        windows = []
        for folder, stamp in self.folders:
            own = _read_tokenizer(folder, stamp)
            encodings.append(own.tokenizer.encode(text))
            found = tuple(encodings[-1].ids)
            if len(found) > own.window:
                raise PromptError(
                    f"The prompt has {len(found)} tokens with begin and end, and the text encoder "
                    f"reads {own.window}.",
                    "Write a shorter prompt.",
                )
            windows.append(own.window)
            padded.append(found + (own.padding,) * (own.window - len(found)))
        pieces = [piece.removesuffix("</w>") for piece in encodings[0].tokens]
        first = tuple(encodings[0].ids)
        return EncodedPrompt(text, tuple(padded), first, tuple(pieces), min(windows))


@dataclass(frozen=True)
class _Own:
    """One tokenizer.

    Attributes
    ----------
    tokenizer
        The tokenizer of the library.
    window
        The number of tokens of a prompt with padding.
    padding
        The token that a prompt is padded with.
    """

    tokenizer: Any
    window: int
    padding: int


def open_tokenizer(weights: Path) -> PromptTokenizer:
    """Open the tokenizers of the model in a folder.

    Raises `FileError` where there is none, and `UsageError` where its package is missing.
    """
    load_extra(EXTRA, package=LIBRARY)
    folders = []
    for name in TOKENIZERS:
        folder = weights / name
        if folder.is_dir():
            stamps = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
            folders.append((folder, hash(tuple(stamps))))
    encoders = sum((weights / name).is_dir() for name in ("text_encoder", "text_encoder_2"))
    if not folders or len(folders) < encoders:
        missing = weights / TOKENIZERS[len(folders)]
        raise FileError(
            f"{missing} is missing, which makes tokens of prompts.",
            "Get the whole folder of the model again.",
        )
    return PromptTokenizer(tuple(folders))


@lru_cache(maxsize=8)
def _read_tokenizer(folder: Path, stamp: int) -> _Own:
    """Read a tokenizer once; `stamp` stands for the times of the last change of its files."""
    del stamp
    library = load_extra(EXTRA, package=LIBRARY)
    settings = _read_settings(folder / "tokenizer_config.json")
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = _make_tokenizer(library, folder)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    except Exception as error:
        raise FileError(
            f"{folder} cannot be read as a tokenizer of CLIP.",
            "Get the folder again: tokenizer.json, or vocab.json and merges.txt.",
        ) from error
    window = settings.get("model_max_length", WINDOW)
    if not isinstance(window, int) or window > 10_000:  # a stand-in for no limit
        window = WINDOW
    named = settings.get("pad_token")
    if named is None:
        named = _read_settings(folder / "special_tokens_map.json").get("pad_token", END)
    if isinstance(named, dict):
        named = named.get("content", END)
    padding = tokenizer.token_to_id(str(named))
    return _Own(tokenizer, window, 0 if padding is None else padding)


def _read_settings(path: Path) -> dict[str, Any]:
    """Read a configuration of a tokenizer; empty where there is none."""
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, JsonError) as error:
        raise FileError(f"{path} cannot be read as JSON.", "Get the file again.") from error
    return content if isinstance(content, dict) else {}


def _make_tokenizer(library: Any, folder: Path) -> Any:
    """Make CLIP's tokenizer from its vocabulary and its merges."""
    model = library.models.BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=END,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
    )
    tokenizer = library.Tokenizer(model)
    normalizers, cutters = library.normalizers, library.pre_tokenizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(library.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = cutters.Sequence(
        [
            cutters.Split(library.Regex(WORDS), behavior="removed", invert=True),
            cutters.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([BEGIN, END])
    ends = [(END, tokenizer.token_to_id(END)), (BEGIN, tokenizer.token_to_id(BEGIN))]
    tokenizer.post_processor = library.processors.RobertaProcessing(
        *ends, trim_offsets=False, add_prefix_space=False
    )
    return tokenizer
