from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from editspec_runtime.maths.adam import Adam


def descended(make: type, tensors: list[Tensor], **settings: float | bool) -> list[Tensor]:
    """The tensors after some steps on a sum that the last of them is no part of."""
    free = [tensor.clone().requires_grad_() for tensor in tensors]
    adam = make(free, **settings)
    for _ in range(20):
        adam.zero_grad()
        loss = (free[0].sin().sum() + (free[1] * free[0][0, 0]).exp().sum()).abs()
        loss.backward()
        adam.step()
    return [tensor.detach() for tensor in free]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchs(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(*shape, generator=random).to(dtype) for shape in ((3, 4), (5,), (2,))]
    wanted = descended(torch.optim.Adam, tensors, lr=0.05, fused=True)
    found = descended(Adam, tensors, rate=0.05)
    for mine, theirs, before in zip(found, wanted, tensors, strict=True):
        assert torch.equal(mine, theirs)
        # Nothing asked for a change of the last.
        assert torch.equal(mine, before) == (before is tensors[-1])
    other = descended(Adam, tensors, rate=0.04)
    assert not torch.equal(other[0], wanted[0])


def test_a_step_imports_no_compiler() -> None:
    code = """
import sys, torch
from editspec_runtime.maths.adam import Adam
tensor = torch.ones(2, requires_grad=True)
tensor.sum().backward()
for make in (lambda: Adam([tensor], 0.1), lambda: torch.optim.Adam([tensor], 0.1)):
    make().step()
    print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
