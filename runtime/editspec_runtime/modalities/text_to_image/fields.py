"""Fields of ``model:`` that families of text-to-image models share; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from editspec_runtime.codes import Code
from editspec_runtime.core.fields import FieldProblem, ModelFields

TOKENIZERS = ("tokenizer", "tokenizer_2")
"""The folders of tokenizers, in the order of the text encoders."""

CONFIGURED = ("text_encoder", "text_encoder_2", "unet")


class PipelineFields(ModelFields):
    """The fields of a model that draws what a prompt says."""

    def problems(self, compatibility: str | None) -> Iterator[FieldProblem]:
        """Find a key or a prefix, which a folder of several models does not have."""
        for name in ("key", "prefix"):
            if getattr(self, name) is not None:
                message = f"a folder of several models has no {name}"
                hint = f"leave {name} out"
                yield FieldProblem((name,), message, hint, Code.FAMILY_FIELD, at_key=True)

    def files(self, folder: Path) -> Iterator[str]:
        """Yield the tokenizers and the configurations that lie in the folder of the model."""
        place = folder / self.weights
        if not place.is_dir():
            return
        found = [place / "model_index.json"]
        found += [place / name / "config.json" for name in CONFIGURED]
        for name in TOKENIZERS:
            if (place / name).is_dir():
                found += sorted((place / name).iterdir())
        for file in found:
            if file.is_file() and file.is_relative_to(folder):
                yield file.relative_to(folder).as_posix()

    def digest_text(self) -> dict[str, object]:
        """The family."""
        return {"family": self.family}
