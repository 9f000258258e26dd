"""The prompts that second moments and checks are taken over."""

from __future__ import annotations

from pathlib import Path

from editspec.engine.model_session import ModelSession
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.text_to_image.resolve import Concepts
from editspec_compiler.modalities.text_to_image.schema import prompt_spec
from editspec_compiler.modalities.text_to_image.tokens import PromptError, open_tokenizer
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError
from editspec_runtime.modalities.text_to_image.compatibility import COMPATIBILITIES
from editspec_runtime.modalities.text_to_image.samples import PromptSample


def concepts_of(loaded: LoadedSpec) -> Concepts:
    """What the edits of a spec ask for, as tokens of its model."""
    return Concepts(prompt_spec(loaded.spec), open_tokenizer(loaded.weights))


def read_prompts(path: Path) -> list[str]:
    """Read a file of prompts, one to a line; empty lines do not count.

    Raises `FileError` where it is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not text in UTF-8 (byte {error.start}).", "Save it as UTF-8."
        ) from error
    return [line for line in lines if line.strip()]


def find_sample(session: ModelSession) -> PromptSample:
    """Find the prompts that ``statistics`` of a session's spec names, and what C has besides.

    The empty prompt is always among them, but where a compatibility leaves it out. Raises
    `SpecError` where a prompt is too long.
    """
    loaded = session.loaded
    spec = prompt_spec(loaded.spec)
    statistics, compatibility = spec.statistics, COMPATIBILITIES[spec.compatibility]
    tokenizer = open_tokenizer(loaded.weights)
    texts: list[str] = [""] if compatibility.empty_sampled else []
    if statistics.prompts is not None:
        texts += read_prompts(loaded.folder / statistics.prompts)
    prompts = []
    for number, text in enumerate(texts):
        try:
            prompts.append(tokenizer.encode(text).tokens)
        except PromptError as error:
            raise loaded.error(
                ("statistics", "prompts"),
                f"line {number + 1 - compatibility.empty_sampled}: {error.message}",
                error.hint,
                Code.CORPUS_UNFIT,
            ) from error
    ridge = compatibility.ridge if statistics.ridge is None else statistics.ridge
    return PromptSample(tuple(prompts), ridge, statistics.weight)
