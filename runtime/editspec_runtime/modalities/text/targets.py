"""Values that make a model go on with a text, found by optimisation.

A shift is added to the value of a layer at the subject's last token, in every text of a request.
The texts before the subject do not change with it, and neither do layers up to the edited one: only
the ends of the texts are computed again, above the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.adam import Adam
from editspec_runtime.modalities.text.batches import Tokens, pad_texts
from editspec_runtime.modalities.text.compatibility import Optimiser
from editspec_runtime.modalities.text.language_model import LanguageModel, Suffix


@dataclass(frozen=True)
class Request:
    """A text that a model is to go on with, or to go on with no more.

    Attributes
    ----------
    prompts
        The tokens of each prompt, the bare one first.
    places
        The place of the subject's last token in each prompt.
    wanted
        The tokens of the text.
    essence
        The tokens of a text about the subject up to its last token, what follows which must stay.
    kept
        Other prompts about the subject, after which the model is to go on as before: the tokens of
        each, and the place of the subject's last token.
    baseline
        Where the text is to be forgotten: the mean log of the probability of its tokens that is low
        enough. None where the text is wanted.
    """

    prompts: tuple[Tokens, ...]
    places: tuple[int, ...]
    wanted: Tokens
    essence: Tokens
    kept: tuple[tuple[Tokens, int], ...] = ()
    baseline: float | None = None


@dataclass(frozen=True)
class Found:
    """A shift, and the way to it.

    Attributes
    ----------
    shift
        The shift of the value, [out].
    losses
        Of each evaluation: the whole loss, that of the text, of the divergence and of the norm, and
        the probability of the text, [evaluations, 5] float64.
    """

    shift: Tensor
    losses: Tensor


def find_shift(
    model: LanguageModel,
    layer: str,
    request: Request,
    optimiser: Optimiser,
    on_step: Callable[[int], None] = lambda done: None,
) -> Found:
    """Find the shift of a layer's value for a request, by Adam from zero.

    Raises `NumericalError` where the loss is not finite.
    """
    posed = _pose(model, layer, request)
    anchor = posed.suffix.block_output[0] if optimiser.of_block else posed.suffix.value[0]
    size = anchor.norm()
    shift = torch.zeros_like(anchor, requires_grad=True)
    rate = optimiser.learning_rate
    if optimiser.relative:
        rate *= float(size) / len(anchor) ** 0.5
    adam = Adam([shift], rate)
    losses: list[Tensor] = []
    for evaluation in range(optimiser.evaluations):
        adam.zero_grad()
        text, probability = posed.text(shift)
        divergence = optimiser.kl * posed.essence(shift)
        for kept in posed.kept:
            divergence = divergence + optimiser.keep / len(posed.kept) * kept(shift)
        decay = optimiser.decay * shift.norm() / size.square()
        loss = text + divergence + decay
        row = [loss, text, divergence, decay, probability]
        losses.append(torch.stack([each.detach().double().cpu() for each in row]))
        on_step(evaluation + 1)
        if not bool(loss.isfinite()):
            if not evaluation:
                raise NumericalError(
                    f"The model itself gives numbers that are not finite behind {layer}, before "
                    "its value changes.",
                    "Use precision: float64, or weights with which the model computes.",
                )
            raise NumericalError(
                f"The search for a value of {layer} gives a loss that is not finite.",
                "Lower optimise.learning_rate, or use precision: float64.",
            )
        ended = bool(loss < optimiser.enough) or evaluation + 1 == optimiser.evaluations
        if ended:
            break
        loss.backward()
        adam.step()
        with torch.no_grad():
            limit = optimiser.clamp * size
            if bool(shift.norm() > limit):
                shift *= limit / shift.norm()
    return Found(shift.detach(), torch.stack(losses))


@torch.no_grad()
def log_probability(model: LanguageModel, prompt: Tokens, text: Tokens) -> float:
    """The mean log of the probability of the tokens of a text behind a prompt."""
    whole = (*prompt, *text)
    logits = model.outputs(pad_texts([whole[:-1]]))[0, -len(text) :]
    found = logits.log_softmax(-1).gather(1, torch.tensor(text, device=logits.device)[:, None])
    return float(found.mean())


@dataclass(frozen=True)
class _Divergence:
    """The divergence of what follows a text from what followed it before the shift.

    Attributes
    ----------
    suffix
        The end of the text.
    before
        The logs of the probabilities of the next token, [vocabulary].
    """

    suffix: Suffix
    before: Tensor

    def __call__(self, shift: Tensor) -> Tensor:
        """Compute sum p (log p - log p0), a scalar."""
        now = _next_logs(self.suffix, shift)
        return (now.exp() * (now - self.before)).sum()


def _next_logs(suffix: Suffix, shift: Tensor) -> Tensor:
    """The logs of the probabilities of the token after a single text, [vocabulary]."""
    rest = suffix.continuation
    return rest.logits(rest(shift)[0, -1]).log_softmax(-1)


@dataclass(frozen=True)
class _Posed:
    """A request on a model.

    Attributes
    ----------
    suffix
        The ends of the prompts with the text.
    essence, kept
        The divergence of what follows the subject elsewhere, and other prompts about it.
    places
        In the ends: the positions after which a token of the text comes, [rows, tokens].
    wanted
        The tokens of the text, [rows, tokens, 1].
    baseline
        As in `Request`.
    """

    suffix: Suffix
    essence: _Divergence
    kept: tuple[_Divergence, ...]
    places: Tensor
    wanted: Tensor
    baseline: float | None

    def text(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of the text, and its probability, as scalars."""
        rest = self.suffix.continuation
        stream = rest(shift)
        index = self.places[..., None].expand(-1, -1, stream.shape[-1])
        logs = rest.logits(stream.gather(1, index)).log_softmax(-1)
        each = logs.gather(2, self.wanted)[..., 0].mean(1)
        loss = -each.mean()
        if self.baseline is not None:
            loss = (each - self.baseline).clamp_min(0).mean()
        return loss, each.exp().mean()


@torch.no_grad()
def _pose(model: LanguageModel, layer: str, request: Request) -> _Posed:
    rows = [(*prompt, *request.wanted[:-1]) for prompt in request.prompts]
    starts = torch.tensor(request.places)
    suffix = model.suffix(layer, pad_texts(rows), starts)
    device = suffix.key.device
    count = len(request.wanted)
    first = torch.tensor([len(row) for row in rows]) - count - starts
    places = (first[:, None] + torch.arange(count)).to(device)
    wanted = torch.tensor(request.wanted, device=device).expand(len(rows), -1)[..., None]

    def follow(text: Tokens, place: int) -> _Divergence:
        end = model.suffix(layer, pad_texts([text]), torch.tensor([place]))
        return _Divergence(end, _next_logs(end, torch.zeros_like(end.value[0])))

    essence = follow(request.essence, len(request.essence) - 1)
    kept = tuple(follow(text, place) for text, place in request.kept)
    return _Posed(suffix, essence, kept, places, wanted, request.baseline)
