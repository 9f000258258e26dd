"""The solvers that know no directions: one layer, all weights, a rank that is found by SVD, and
ablation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.rule import Rule
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.moments import Progress
from editspec_runtime.methods.solvers import LossCallback, finite, ignore_loss, rule_loss
from editspec_runtime.modalities.image.generator import Generator, LayerFunction

ImageLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A scalar from images [n, 3, size, size], what they should be, and how much each pixel counts, [n,
1, size, size].
"""


def low_rank(
    function: LayerFunction,
    weight: Tensor,
    rule: Rule,
    conventions: Compatibility,
    progress: Progress,
    on_loss: LossCallback = ignore_loss,
) -> tuple[Tensor, Tensor]:
    """Adam on W whose change is cut to its `rule.rank` largest singular triples every few steps
    (paper section 5.3).

    The change counts as a matrix from input channels to output channels and taps; the loss is the
    squared one of Eqn. 6.

    Parameters
    ----------
    function, weight
        The layer's f(k; W), and W0, [1, out, in, kh, kw].
    rule
        K*, V*, rank and settings.
    conventions
        Whether the best iterate of that rank is returned, or the last.

    Returns
    -------
    tuple of Tensor
        D [rank, in], orthonormal rows, and A [out, rank, kh, kw].
    """
    settings, rank = rule.solver, rule.rank
    assert rank is not None
    assert settings.project_every is not None
    free = weight.clone().requires_grad_()
    adam = Adam([free], settings.learning_rate)
    factors = _cut(torch.zeros_like(weight), rank)
    best, best_loss, cut = factors, float("inf"), True
    for step in range(settings.steps + 1):
        adam.zero_grad()
        loss = _squared_loss(function, rule, free, conventions)
        if cut and (value := finite(loss, step, on_loss)) < best_loss:
            best, best_loss = factors, value
        if step == settings.steps:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        # As in the paper's experiment, and other than in projected-gradient, the first cut comes
        # after a whole round.
        cut = (step + 1) % settings.project_every == 0 or step == settings.steps - 1
        if cut:
            with torch.no_grad():
                factors = _cut(free - weight, rank)
                free.copy_(weight + torch.einsum("osyx,si->oiyx", factors[1], factors[0]))
            progress(step + 1, settings.steps)
    return best if conventions.keep_best else factors


def one_layer(
    function: LayerFunction,
    weight: Tensor,
    rule: Rule,
    conventions: Compatibility,
    progress: Progress,
    on_loss: LossCallback = ignore_loss,
) -> Tensor:
    """The change of W that Adam finds for a rule without any constraint (paper Eqn. 6), in the
    shape of W.
    """
    free = weight.clone().requires_grad_()
    (found,) = _descend(
        [free], lambda: rule_loss(function, rule, free), rule, conventions, progress, on_loss
    )
    return found - weight


def all_weights(
    generator: Generator,
    rule: Rule,
    conventions: Compatibility,
    progress: Progress,
    loss: ImageLoss | None = None,
    on_loss: LossCallback = ignore_loss,
) -> dict[str, Tensor]:
    """The change of every weight that Adam finds for images to look as the composited ones (paper
    Eqn. 3).

    Parameters
    ----------
    generator
        The model as it is.
    rule
        z, the composited images and the area that counts, as in `Rule`.
    loss
        What is minimised; default: `absolute_difference`.
    """
    loss = loss or absolute_difference
    free = {
        name: generator.weights[name].clone().requires_grad_() for name in generator.trainable()
    }
    model = generator.with_weights({**generator.weights, **free})
    found = _descend(
        free.values(),
        lambda: loss(drawn(model, rule.key), rule.value, rule.arguments["area"]),
        rule,
        conventions,
        progress,
        on_loss,
    )
    return {name: new - generator.weights[name] for name, new in zip(free, found, strict=True)}


def drawn(generator: Generator, latents: Tensor) -> Tensor:
    """The images of `latents` [n, latent_size], one at a time: the authors' noise goes by the place
    in a batch.
    """
    return torch.cat([generator.images(latent[None]) for latent in latents])


def absolute_difference(images: Tensor, wanted: Tensor, area: Tensor) -> Tensor:
    """The mean absolute difference of pixels where they count."""
    return (area * (images - wanted)).abs().sum() / (area.sum() * images.shape[1])


def ablation(weight: Tensor, units: Iterable[int]) -> tuple[Tensor, Tensor]:
    """The change that makes W blind for `units` of its key: D [s, in], one-hot rows, and A [out, s,
    kh, kw].
    """
    rows = torch.tensor(list(units), dtype=torch.long, device=weight.device)
    kernel = weight.reshape(weight.shape[-4:])
    directions = torch.eye(kernel.shape[1]).to(kernel)[rows]
    return directions, -kernel[:, rows]


def _cut(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The largest singular triples of a change [1, out, in, kh, kw] as D [rank, in] and A [out,
    rank, kh, kw].
    """
    matrix = change[0].movedim(1, 0).flatten(1)
    left, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    directions = left[:, :rank].T.contiguous()
    return directions, torch.einsum("oiyx,si->osyx", change[0], directions)


def _squared_loss(
    function: LayerFunction, rule: Rule, weight: Tensor, conventions: Compatibility
) -> Tensor:
    loss = (rule.value - function(rule.key, weight, rule.arguments, haloed=True)).square().mean()
    return 2 * loss if conventions.states_added and len(rule.key) > 1 else loss


def _descend(
    free: Iterable[Tensor],
    loss_of: Callable[[], Tensor],
    rule: Rule,
    conventions: Compatibility,
    progress: Progress,
    on_loss: LossCallback,
) -> list[Tensor]:
    """Adam on `free` without a constraint: the best iterate, or the last."""
    free = list(free)
    adam = Adam(free, rule.solver.learning_rate)
    best, best_loss = [tensor.detach().clone() for tensor in free], float("inf")
    for step in range(rule.solver.steps + 1):
        adam.zero_grad()
        loss = loss_of()
        if (value := finite(loss, step, on_loss)) < best_loss and conventions.keep_best:
            best, best_loss = [tensor.detach().clone() for tensor in free], value
        if step == rule.solver.steps:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        progress(step + 1, rule.solver.steps)
    return best if conventions.keep_best else [tensor.detach() for tensor in free]
