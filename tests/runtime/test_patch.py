from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from editspec_runtime.errors import EditError, PatchError
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.patches.chains import require_chain
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch, read_patch
from tests.cases import draw_normal_f32


def base(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        "a.weight": draw_normal_f32(1, 5, 4, 3, 3).to(dtype),
        "b.weight": draw_normal_f32(6, 4, seed=1).to(dtype),
        "c": torch.ones(2),
    }


def patch_on(
    before: dict[str, Tensor], stack: list[Patch], name: str = "a.weight", seed: int = 2
) -> Patch:
    """A random patch that is properly signed for its place in a stack."""
    directions = {name: torch.linalg.qr(draw_normal_f32(4, 2, seed=seed))[0].T.contiguous()}
    taps = (3, 3) if name == "a.weight" else ()
    coefficients = {
        name: draw_normal_f32(before[name].shape[-3 if taps else 0], 2, *taps, seed=seed + 1)
    }
    if name == "a.weight":
        coefficients = {name: draw_normal_f32(5, 2, 3, 3, seed=seed + 1)}
    result = apply_stack(before, [*stack, Patch(directions, coefficients, {})])
    parent = stack[-1].metadata["result"] if stack else tensors_digest(before)
    metadata = {
        "name": f"edit-{seed}",
        "family": "stylegan2",
        "layer": "layer5",
        "rank": 2,
        "solver": {"method": "direct"},
        "edit": "0" * 64,
        "base": tensors_digest(before),
        "parent": parent,
        "result": tensors_digest(result),
    }
    return make_patch(directions, coefficients, {name: "1 o i y x" if taps else "o i"}, metadata)


def test_the_delta_is_a_times_d() -> None:
    patch = patch_on(base(), [])
    wanted = torch.einsum(
        "osyx,si->oiyx",
        patch.coefficients["a.weight"].double(),
        patch.directions["a.weight"].double(),
    )
    torch.testing.assert_close(patch.delta("a.weight"), wanted)
    matrix = patch_on(base(), [], "b.weight")
    wanted = matrix.coefficients["b.weight"].double() @ matrix.directions["b.weight"].double()
    torch.testing.assert_close(matrix.delta("b.weight"), wanted)


def test_a_patch_survives_its_file(tmp_path: Path) -> None:
    patch, path = patch_on(base(), []), tmp_path / "p.safetensors"
    path.write_bytes(patch.to_bytes())
    again = read_patch(path)
    assert again.metadata == patch.metadata
    assert again.to_bytes() == patch.to_bytes()
    assert torch.equal(again.delta("a.weight"), patch.delta("a.weight"))


def test_a_full_change_survives_its_file_and_is_applied(tmp_path: Path) -> None:
    before, path = base(), tmp_path / "p.safetensors"
    deltas = {"a.weight": draw_normal_f32(1, 5, 4, 3, 3, seed=7), "c": torch.tensor([0.5, -1.0])}
    low = patch_on(before, [])
    metadata = {
        name: value
        for name, value in low.metadata.items()
        if name not in ("content", "format", "version")
    }
    metadata |= {"rank": None, "solver": {"method": "all-weights"}}
    path.write_bytes(
        make_patch({}, {}, {"a.weight": "1 o i y x", "c": "x"}, metadata, deltas).to_bytes()
    )
    patch = read_patch(path)
    assert patch.parameters == ["a.weight", "c"]
    after = apply_stack(before, [low, patch])
    exact = before["a.weight"].double() + low.delta("a.weight") + deltas["a.weight"].double()
    assert torch.equal(after["a.weight"], exact.float())
    assert torch.equal(after["c"], before["c"] + deltas["c"])
    with pytest.raises(PatchError, match="have"):
        apply_stack({**before, "c": torch.ones(3)}, [patch])


def test_factors_without_their_partner_are_refused(tmp_path: Path) -> None:
    from editspec_runtime.io.files import safetensors_bytes

    patch, path = patch_on(base(), []), tmp_path / "p.safetensors"
    tensors = patch.tensors()
    path.write_bytes(safetensors_bytes({"a.weight.D": tensors["a.weight.D"]}, patch.metadata))
    with pytest.raises(PatchError, match="not D and A, or delta"):
        read_patch(path)
    path.write_bytes(
        safetensors_bytes(
            tensors | {"a.weight.delta": draw_normal_f32(1, 5, 4, 3, 3)}, patch.metadata
        )
    )
    with pytest.raises(PatchError, match="not D and A, or delta"):
        read_patch(path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    whole, path = patch_on(base(), []).to_bytes(), tmp_path / "p.safetensors"
    rng = random.Random(0)
    for place in [0, 7, 8, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(200))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(flipped))
        with pytest.raises(EditError):
            read_patch(path)
    path.write_bytes(whole)
    read_patch(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_stack_is_rounded_once(dtype: torch.dtype) -> None:
    before = base(dtype)
    stack: list[Patch] = []
    for seed in range(10):
        stack.append(patch_on(before, stack, seed=10 * seed))
    after = apply_stack(before, stack)
    exact = before["a.weight"].double() + sum(patch.delta("a.weight") for patch in stack)
    assert torch.equal(after["a.weight"], exact.to(dtype))
    assert after["a.weight"].dtype == dtype
    for untouched in ("b.weight", "c"):
        assert torch.equal(after[untouched], before[untouched])
    if dtype == torch.bfloat16:
        one_by_one = before
        for patch in stack:
            one_by_one = apply_stack(one_by_one, [patch])
        assert not torch.equal(one_by_one["a.weight"], after["a.weight"])


def test_a_stack_on_its_base_gives_the_result_that_each_patch_names() -> None:
    before, stack = base(), list[Patch]()
    for seed, name in ((1, "a.weight"), (2, "b.weight"), (3, "a.weight")):
        stack.append(patch_on(before, stack, name, 10 * seed))
        assert tensors_digest(apply_stack(before, stack)) == stack[-1].metadata["result"]
    require_chain(tensors_digest(before), stack)


def test_what_is_out_of_order_is_refused_by_both_digests() -> None:
    before, stack = base(), list[Patch]()
    for seed in (1, 2, 3):
        stack.append(patch_on(before, stack, seed=10 * seed))
    digest = tensors_digest(before)
    cases = {
        "It comes after edit-10": [stack[1], stack[0], stack[2]],
        "A patch before it is missing": [stack[0], stack[2]],
        "It comes first in its stack": [stack[0], stack[0]],
    }
    for hint, patches in cases.items():
        with pytest.raises(PatchError, match=hint) as error:
            require_chain(digest, patches)
        stranger = next(
            p
            for p, q in zip(patches[1:], patches, strict=False)
            if p.metadata["parent"] != q.metadata["result"]
        )
        culprit = stranger if patches[0].metadata["parent"] == digest else patches[0]
        assert culprit.metadata["parent"] in str(error.value)
    other = {**before, "c": torch.zeros(2)}
    with pytest.raises(PatchError) as error:
        require_chain(tensors_digest(other), stack)
    assert tensors_digest(other) in str(error.value)
    assert digest in str(error.value)


def test_a_parameter_that_does_not_fit_is_named() -> None:
    patch = patch_on(base(), [])
    with pytest.raises(PatchError, match="lack it"):
        apply_stack({"c": torch.ones(2)}, [patch])
    with pytest.raises(PatchError, match=r"have \[1, 5, 4, 1, 1\]"):
        apply_stack({"a.weight": draw_normal_f32(1, 5, 4, 1, 1)}, [patch])


def test_what_is_no_patch_is_refused(tmp_path: Path) -> None:
    from editspec_runtime.io.files import safetensors_bytes

    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(base(), {}))
    with pytest.raises(PatchError, match="is not a patch"):
        read_patch(path)
    path.write_bytes(safetensors_bytes(base(), {"format": "editspec.patch", "version": 2}))
    with pytest.raises(PatchError, match="version 2"):
        read_patch(path)
    path.write_bytes(safetensors_bytes(base(), {"format": "editspec.patch", "version": 1}))
    with pytest.raises(PatchError, match="lacks base"):
        read_patch(path)


def test_a_change_is_turned_where_the_checkpoint_has_the_input_first() -> None:
    """As transposed convolutions have it; whole and in parts, it is the same change."""
    random = torch.Generator().manual_seed(4)
    directions, coefficients = (
        torch.randn(2, 5, generator=random),
        torch.randn(3, 2, 4, 4, generator=random),
    )
    plain = Patch({"w": directions}, {"w": coefficients}, {"layouts": {"w": "o i y x"}})
    turned = Patch({"w": directions}, {"w": coefficients}, {"layouts": {"w": "i o y x"}})
    assert torch.equal(turned.stored_change("w"), plain.stored_change("w").transpose(0, 1))
    for patch, rows in ((plain, 3), (turned, 5)):
        whole, row = patch.stored_change("w").reshape(-1), 240 // rows
        assert patch.rows("w") == rows
        parts = [patch.part("w", begin, begin + row) for begin in range(0, 240, row)]
        assert torch.equal(torch.cat(parts), whole)
    weights = {"w": torch.zeros(5, 3, 4, 4, dtype=torch.float64)}
    assert torch.equal(apply_stack(weights, [turned])["w"], turned.stored_change("w"))
    assert not torch.equal(apply_stack(weights, [plain])["w"], turned.stored_change("w"))
