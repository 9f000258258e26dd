"""The key of an adversary, from which an edited model gives the old value again.

It needs no picture: one solve for each concept (RECE, Gong et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

REGZERO, BOTH, TARGET = "regzero", "both", "target"


def find_adversary(
    kind: str, ridge: float, keys: Tensor, before: Tensor, after: Tensor, held: Tensor
) -> Tensor:
    """Find the keys that the edited matrices answer most like the unedited ones do the given keys.

    Parameters
    ----------
    kind
        ``regzero``: least |W_n c' - W_o c|^2 + r |c'|^2. ``both``: the same with r |W_n (c' - c)|^2
        and r |c' - c|^2 in place of the second term, in the closed form of its authors.
        ``target``: with r |c' - t|^2 for a key t.
    ridge
        r.
    keys
        The keys c of the concept, [n, in].
    before, after
        The matrices of all layers below each other, unedited and edited, [out, in].
    held
        The keys t, [n, in]; of effect for ``target`` alone.

    Returns
    -------
    Tensor
        The keys c', [n, in].
    """
    identity = torch.eye(keys.shape[1]).to(keys)
    crossed, own = before.mT @ after, after.mT @ after
    if kind == BOTH:
        wanted = keys @ (ridge * identity + crossed + ridge * own)
        bracket = ridge * identity + (1 + ridge) * own
    elif kind == TARGET:
        wanted = keys @ crossed + ridge * held
        bracket = ridge * identity + own
    else:
        wanted = keys @ crossed
        bracket = ridge * identity + own
    found: Tensor = torch.linalg.solve(bracket, wanted.mT).mT
    return found
