"""Fields of ``model:`` that families of texts share; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from editspec_runtime.core.fields import ModelFields

TOKENIZER = "tokenizer.json"


class TextFields(ModelFields):
    """The fields of a model that goes on with texts."""

    bos: bool | None = Field(
        None,
        description=(
            "Whether every text begins with the model's begin-of-text token. Default: as its "
            "tokenizer has it."
        ),
    )

    def files(self, folder: Path) -> Iterator[str]:
        """Yield the tokenizer and the configuration that lie beside the weights."""
        place = folder / self.weights
        if not place.exists():  # a model of the package, which its digest names
            return
        place = place if place.is_dir() else place.parent
        for name in ("config.json", TOKENIZER):
            file = place / name
            if file.is_file() and file.is_relative_to(folder):
                yield file.relative_to(folder).as_posix()

    def digest_text(self) -> dict[str, object]:
        """The family, and whether texts begin with a token of their own."""
        return {"family": self.family, "bos": self.bos}
