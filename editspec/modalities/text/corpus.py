"""The texts that second moments and perplexities are taken over."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.model_session import ModelSession
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.text.schema import GENERATED, Statistics, text_spec
from editspec_compiler.modalities.text.tokens import Tokenizer, open_tokenizer
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.environment import environment
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.samples import TextSample, shuffle_documents, take_tokens
from editspec_runtime.modalities.text.sampling import draw_texts

LENGTH = 128
"""The most tokens of a text that the model makes."""


def tokenizer_of(loaded: LoadedSpec) -> Tokenizer:
    """The tokenizer of the model of a spec."""
    return open_tokenizer(loaded.weights, getattr(loaded.spec.model, "bos", None))


def find_sample(session: ModelSession) -> TextSample:
    """Find the texts that ``statistics`` of a session's spec names.

    Raises `SpecError` where a corpus has fewer tokens than are asked for.
    """
    statistics = text_spec(session.loaded.spec).statistics
    if statistics.corpus == GENERATED:
        return _generate(session, statistics)
    path = session.loaded.folder / statistics.corpus
    context = session.current_model().architecture.details["context"]
    stamp = (str(path), path.stat().st_mtime_ns)
    taken = _read_corpus(stamp, statistics, context, tokenizer_of(session.loaded))
    enough = statistics.documents is not None or taken.positions >= statistics.tokens
    if not enough or not taken.count:
        raise session.loaded.error(
            ("statistics", "tokens"),
            f"{statistics.corpus} has {taken.positions} tokens, and {statistics.tokens} are "
            "asked for",
            f"write tokens: {taken.positions}, or give more text",
            Code.CORPUS_UNFIT,
        )
    return taken


def find_known_sample(session: ModelSession) -> TextSample | None:
    """Find the texts of `find_sample`; None where the model has still to make them."""
    statistics = text_spec(session.loaded.spec).statistics
    if statistics.corpus != GENERATED:
        return find_sample(session)
    tensors = session.cache.find("texts", _key_of_texts(session, statistics))
    return None if tensors is None else _texts_of(tensors)


def read_lines(path: Path) -> list[str]:
    """Read a file of texts, one to a line.

    Raises `FileError` where it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not text in UTF-8 (byte {error.start}).", "Save it as UTF-8."
        ) from error


@lru_cache(maxsize=4)
def _read_corpus(
    stamp: tuple[str, int], statistics: Statistics, context: int, tokenizer: Tokenizer
) -> TextSample:
    lines = read_lines(Path(stamp[0]))
    texts = tokenizer.encode_many(lines)
    order = shuffle_documents(len(texts), statistics.seed)
    return take_tokens(
        (texts[number] for number in order),
        tokens=statistics.tokens,
        context=context,
        documents=statistics.documents,
    )


def _generate(session: ModelSession, statistics: Statistics) -> TextSample:
    """Draw texts from the unedited model, or take them from the cache."""
    model: LanguageModel = session.base_model  # type: ignore[assignment]
    head = tokenizer_of(session.loaded).head
    count, length = _shape_of_texts(model, statistics)

    def draw() -> dict[str, Tensor]:
        session.progress("texts of the model", 0, count)
        texts = draw_texts(model, [head] * count, length, statistics.seed)
        return {"tokens": torch.tensor(texts)}

    tensors, _ = session.cache.tensors("texts", _key_of_texts(session, statistics), draw)
    return _texts_of(tensors)


def _shape_of_texts(model: LanguageModel, statistics: Statistics) -> tuple[int, int]:
    """The number and the length of the texts that the model makes."""
    length = min(LENGTH, model.context)
    return -(-statistics.tokens // length), length


def _key_of_texts(session: ModelSession, statistics: Statistics) -> str:
    """The name of the texts of the unedited model in the cache."""
    model: LanguageModel = session.base_model  # type: ignore[assignment]
    key = {
        "model": dict(model.fingerprint()),
        "weights": model.weights.digest(),  # type: ignore[attr-defined]
        "environment": environment(model),
        "head": list(tokenizer_of(session.loaded).head),
        "shape": list(_shape_of_texts(model, statistics)),
        "seed": statistics.seed,
    }
    return digest(key)


def _texts_of(tensors: dict[str, Tensor]) -> TextSample:
    return TextSample(tuple(tuple(row) for row in tensors["tokens"].tolist()))
