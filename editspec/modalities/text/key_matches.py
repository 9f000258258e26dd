"""Where in texts the key of an edit matches: how much of its change each token is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from editspec.engine.model_session import ModelSession
from editspec.modalities.text.completions import list_prompts
from editspec.modalities.text.corpus import find_sample, tokenizer_of
from editspec_compiler.modalities.text.resolve import CompileResources, Resolver
from editspec_compiler.modalities.text.schema import text_spec
from editspec_compiler.modalities.text.tokens import Tokenizer
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.modalities.text.batches import Tokens, pad_texts
from editspec_runtime.modalities.text.language_model import LanguageModel

SEARCHED = 64
"""The number of texts of the sample of C that are searched."""

BATCH = 16
"""The number of texts whose keys are computed at once."""

BEFORE, BEHIND = 12, 6
"""The number of tokens that are shown before and behind the best one of a text."""

FROM_SPEC, FROM_SAMPLE = "prompts of the spec", "texts of the sample where it matches best"


@dataclass(frozen=True)
class MatchedText:
    """A text, and how well a key matches at each of its tokens.

    Attributes
    ----------
    tokens
        The texts of the tokens.
    shares
        The share of the edit's change that each token is given: k^T C^-1 k* / k*^T C^-1 k* of the
        fact for which it is largest; 1 at the key itself.
    """

    tokens: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def pairs(self) -> list[tuple[str, float]]:
        """Each token with its share."""
        return list(zip(self.tokens, self.shares, strict=True))


@dataclass(frozen=True)
class KeyMatches:
    """Texts in which the keys of an edit match.

    Attributes
    ----------
    layer
        The layer whose keys these are.
    groups
        The texts by where they come from: those of the spec, and those of the sample of C with the
        best match first.
    """

    layer: str
    groups: dict[str, tuple[MatchedText, ...]]


def find_key_matches(
    session: ModelSession, number: int, resources: CompileResources, count: int
) -> KeyMatches:
    """Find how well the keys of edit `number` match, on the model as the session has it.

    Of an edit of several layers, the keys are those of the last. At most `count` texts of each
    group are given.
    """
    model = cast(LanguageModel, session.current_model())
    tokenizer = tokenizer_of(session.loaded)
    spec = text_spec(session.loaded.spec)
    layer = spec.edits[number].layer_names[-1]
    keys = Resolver(session.loaded, number, resources).keys_at(layer, model).double().cpu()
    moment = session.moment(model, layer).cpu()
    rows = [mean_direction(moment, key[None], torch.ones(1).to(key))[0] for key in keys]
    directions = torch.stack(rows).double()
    # Divided by the answer to the fact's own key, so that 1 is the whole change.
    directions = directions / (directions * keys).sum(1, keepdim=True)
    own = [tokenizer.locate(each.fact).tokens for each in list_prompts(spec, number, count)]
    shown = _match(model, layer, own[:count], directions)
    prompts = [_cut(tokenizer, tokens, shares, None) for tokens, shares in shown]
    sample = find_sample(cast(Any, session)).texts[:SEARCHED]
    found = _match(model, layer, sample, directions)
    best = [float(shares[1:].max()) if len(shares) > 1 else 0.0 for _, shares in found]
    order = sorted(range(len(found)), key=lambda index: -best[index])[:count]
    texts = []
    for index in order:
        tokens, shares = found[index]
        place = int(shares[1:].argmax()) + 1 if len(shares) > 1 else 0
        texts.append(_cut(tokenizer, tokens, shares, place))
    return KeyMatches(layer, {FROM_SPEC: tuple(prompts), FROM_SAMPLE: tuple(texts)})


@torch.no_grad()
def _match(
    model: LanguageModel, layer: str, texts: Sequence[Tokens], directions: Tensor
) -> list[tuple[Tokens, Tensor]]:
    """Match the keys of texts: each with the largest share over all facts, by token."""
    found = []
    for start in range(0, len(texts), BATCH):
        some = texts[start : start + BATCH]
        keys = model.keys(layer, pad_texts(some))
        shares = (keys.values.double().cpu() @ directions.T).amax(-1)
        if keys.weight is not None:
            # The first key is nearly the same for every text, and C has no part of it.
            shares = shares * (keys.weight.cpu() > 0)
        found += [(tokens, row[: len(tokens)]) for tokens, row in zip(some, shares, strict=True)]
    return found


def _cut(tokenizer: Tokenizer, tokens: Tokens, shares: Tensor, place: int | None) -> MatchedText:
    """Cut a text around a token; without one it is whole."""
    begin, end = 0, len(tokens)
    if place is not None:
        begin, end = max(0, place - BEFORE), min(len(tokens), place + BEHIND + 1)
    pieces = tokenizer.pieces(tokens[begin:end])
    rounded = [round(share, 4) for share in shares[begin:end].tolist()]
    return MatchedText(tuple(pieces), tuple(rounded))
