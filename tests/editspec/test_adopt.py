"""What another tool changed becomes a patch: to the last bit, or the nearest of a rank."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec.engine.adoption import adopt_parameter
from editspec_runtime.errors import PatchError
from editspec_runtime.patches.patch import make_patch, read_patch
from tests.commands import run, said

GOLDEN = Path(__file__).parents[1] / "golden"

CONVOLUTION, BIAS = "convs.1.conv.weight", "convs.1.activate.bias"


@pytest.fixture(autouse=True)
def weights(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Tensor]:
    """The weights of a tiny model, in base.safetensors of the working folder."""
    monkeypatch.chdir(tmp_path)
    tensors = make_tiny(size=16)
    save_file(tensors, "base.safetensors")
    return tensors


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def change(tensors: dict[str, Tensor], rank: int = 2, left: float = 0.0) -> dict[str, Tensor]:
    """The weights after another tool: a change of a rank and some noise, and another bias."""
    weight = tensors[CONVOLUTION]
    _, outputs, inputs, height, width = weight.shape
    factors = noise(outputs, rank, height, width), noise(rank, inputs, seed=1)
    delta = torch.einsum("osyx,si->oiyx", *factors) + left * noise(*weight.shape[1:], seed=2)
    edited = {**tensors, CONVOLUTION: weight + 0.1 * delta[None]}
    edited[BIAS] = tensors[BIAS] + 0.5
    return edited


def adopt(*options: object) -> Any:
    files = ("--base", "base.safetensors", "--edited", "edited.safetensors")
    return said("adopt", *files, "-o", "trained.safetensors", *options)


def test_the_whole_change_is_exact(weights: dict[str, Tensor]) -> None:
    edited = change(weights)
    edited[CONVOLUTION][0, 0] = 0  # pruned
    edited[CONVOLUTION][0, 1] *= 1e6
    save_file(edited, "edited.safetensors")
    found = adopt()
    assert (found["exact"], found["explained"], found["name"]) == (True, 1.0, "trained")
    assert set(found["parameters"]) == {CONVOLUTION, BIAS}
    assert found["result"] == said("inspect", "edited.safetensors")["digest"]
    # What the others make of it.
    applied = said(
        "apply", "--model", "base.safetensors", "trained.safetensors", "-o", "a.safetensors"
    )
    assert applied["digest"] == found["result"]
    for name, tensor in load_file("a.safetensors").items():
        assert torch.equal(tensor, edited[name])
    files = ("--base", "base.safetensors", "--edited", "edited.safetensors")
    assert said("audit", *files, "trained.safetensors")["explained"]
    assert not said("audit", *files, code=1)["explained"]
    assert run("verify", "trained.safetensors", "--model", "base.safetensors").exit_code == 0
    metadata = read_patch(Path("trained.safetensors")).metadata
    assert metadata["layers"] == ["layer4", BIAS]
    assert "method: adopt" in run("inspect", "trained.safetensors").stdout
    # On top of it comes what any other tool changed then, and both are one patch.
    save_file({**edited, BIAS: edited[BIAS] * 2}, "again.safetensors")
    files = ("--base", "edited.safetensors", "--edited", "again.safetensors")
    second = said("adopt", *files, "-o", "second.safetensors")
    said(
        "rebase",
        "trained.safetensors",
        "second.safetensors",
        "--model",
        "base.safetensors",
        "--keep-deltas",
        "-o",
        "stack",
    )
    said("compose", "stack", "-o", "one.safetensors")
    assert run("verify", "one.safetensors", "--model", "base.safetensors").exit_code == 0
    assert (
        said("apply", "--model", "base.safetensors", "one.safetensors", "--dry-run")["digest"]
        == (second["result"])
    )
    exported = said("export", "one.safetensors", "--format", "delta", "-o", "delta.safetensors")
    assert exported
    before = Path("trained.safetensors").read_bytes()
    adopt()
    assert Path("trained.safetensors").read_bytes() == before


def test_a_rank_gives_the_nearest_change_and_says_its_share(weights: dict[str, Tensor]) -> None:
    edited = change(weights, rank=3, left=0.3)
    save_file(edited, "edited.safetensors")
    delta = (edited[CONVOLUTION] - weights[CONVOLUTION])[0].double()
    values = torch.linalg.svdvals(delta.movedim(1, -1).reshape(-1, delta.shape[1])).square()
    shares = []
    for rank in (1, 3, len(values)):
        found = adopt("--rank", rank)
        part = found["parameters"][CONVOLUTION]
        assert part["rank"] == rank
        assert part["explained"] == pytest.approx(
            float(values[:rank].sum() / values.sum()), abs=1e-6
        )
        assert found["parameters"][BIAS] == {"rank": None, "explained": 1.0, "inexact": 0}
        assert (
            f"rank {rank}, {part['explained']:.2%} of the change"
            in run(
                "adopt",
                "--base",
                "base.safetensors",
                "--edited",
                "edited.safetensors",
                "-o",
                "trained.safetensors",
                "--rank",
                rank,
            ).stdout
        )
        shares.append(part["explained"])
        assert run("verify", "trained.safetensors", "--model", "base.safetensors").exit_code == 0
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=1e-12)
    different = said("diff", "trained.safetensors", "trained.safetensors")
    assert different["same"]


def test_a_change_of_a_lower_rank_has_no_more_directions(weights: dict[str, Tensor]) -> None:
    save_file(change(weights), "edited.safetensors")
    part = adopt("--rank", 5)["parameters"][CONVOLUTION]
    assert part["rank"] == 2  # what is left is the rounding of the other tool
    assert part["explained"] == pytest.approx(1, abs=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_of_floating_point_numbers_is_exact(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    numbers = st.floats(-1e4, 1e4, width=16).filter(lambda value: value == 0 or abs(value) > 1e-3)
    size = st.lists(numbers, min_size=6, max_size=6)
    pairs = [torch.tensor(data.draw(size)).reshape(2, 3).to(dtype) + 0.0 for _ in range(2)]
    if torch.equal(*pairs):
        return
    found = adopt_parameter("w", *pairs, "o i", None)
    assert found.after is not None
    assert torch.equal(found.after, pairs[1])
    assert (found.inexact, found.left) == (0, 0)


@pytest.mark.parametrize(("before", "after"), [(-0.25, -0.0), (1.0, 1e-25)])
def test_what_no_difference_gives_is_counted(
    weights: dict[str, Tensor], before: float, after: float
) -> None:
    """A sum with a difference cannot end at a zero below, nor at a number that it drowns."""
    base, edited = dict(weights), dict(weights)
    base[BIAS] = torch.full_like(weights[BIAS], before)
    edited[BIAS] = torch.full_like(weights[BIAS], 2.0)
    edited[BIAS][0] = after
    save_file(base, "base.safetensors")
    save_file(edited, "edited.safetensors")
    found = adopt()
    assert (found["exact"], found["parameters"][BIAS]["inexact"]) == (False, 1)
    assert found["explained"] == pytest.approx(1, abs=1e-12)
    files = ("--base", "base.safetensors", "--edited", "edited.safetensors")
    assert "not bit for bit" in run("adopt", *files, "-o", "trained.safetensors").stdout
    assert (
        run("apply", "--model", "base.safetensors", "trained.safetensors", "--dry-run").exit_code
        == 0
    )


def test_what_differs_in_more_than_numbers_is_named(weights: dict[str, Tensor]) -> None:
    cases = {
        f"{BIAS}: missing in the edited weights": {n: t for n, t in weights.items() if n != BIAS},
        "more: only in the edited weights": {**weights, "more": torch.zeros(2)},
        f"{CONVOLUTION}: float32 1 x": {
            **weights,
            CONVOLUTION: weights[CONVOLUTION][:, :, :, :1, :1].contiguous(),
        },
        f"{BIAS}: float32 ": {**weights, BIAS: weights[BIAS].half()},
        "have the same numbers": weights,
    }
    for words, edited in cases.items():
        save_file(edited, "edited.safetensors")
        files = ("--base", "base.safetensors", "--edited", "edited.safetensors")
        result = run("adopt", *files, "-o", "new.safetensors", "--family", "stylegan2")
        assert result.exit_code == 1, words
        assert words.partition(":")[0] in result.stderr, result.stderr
        assert not Path("new.safetensors").exists()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("rank", [None, 2])
def test_a_folder_of_a_language_model(name: str, rank: int | None) -> None:
    for folder in ("base", "edited"):
        shutil.copytree(GOLDEN / "transformer" / "models" / name, folder)
        shutil.copy(GOLDEN / "transformer" / "tokenizer.json", folder)
    (file,) = Path("edited").glob("*.safetensors")
    tensors = load_file(file)
    matrices = [n for n, t in sorted(tensors.items()) if t.ndim == 2 and "mlp" in n][:2]
    for number, matrix in enumerate(matrices):
        rows, columns = tensors[matrix].shape
        update = noise(rows, 2, seed=number) @ noise(2, columns, seed=7)
        tensors[matrix] = (tensors[matrix].float() + 0.01 * update).to(tensors[matrix].dtype)
    save_file(tensors, file, {"format": "pt"})
    options = [] if rank is None else ["--rank", rank]
    found = said(
        "adopt", "--base", "base", "--edited", "edited", "-o", "lora.safetensors", *options
    )
    assert set(found["parameters"]) == set(matrices)
    assert found["explained"] > 0.999
    applied = said("apply", "--model", "base", "lora.safetensors", "-o", "made")
    assert applied["digest"] == found["result"]
    assert (applied["digest"] == found["edited"]) is found["exact"]
    assert found["exact"] is (rank is None)
    assert run("verify", "lora.safetensors", "--model", "base").exit_code == 0


def test_a_folder_of_a_text_to_image_model() -> None:
    for folder in ("base", "edited"):
        shutil.copytree(GOLDEN / "diffusion" / "pipeline", folder)
    (file,) = Path("edited/unet").glob("*.safetensors")
    tensors = load_file(file)
    name = next(n for n in sorted(tensors) if n.endswith("attn2.to_v.weight"))
    tensors[name] = tensors[name] + 0.1 * noise(*tensors[name].shape)
    save_file(tensors, file)
    found = said("adopt", "--base", "base", "--edited", "edited", "-o", "lora.safetensors")
    assert list(found["parameters"]) == [f"unet/{name}"]
    assert found["exact"]
    assert (
        said("apply", "--model", "base", "lora.safetensors", "-o", "made")["digest"]
        == (found["edited"])
    )
    # What is not applied to such a folder is not adopted.
    (file,) = Path("edited/text_encoder").glob("*.safetensors")
    encoder = load_file(file)
    first = next(n for n in sorted(encoder) if encoder[n].is_floating_point())
    save_file({**encoder, first: encoder[first] + 1}, file)
    result = run("adopt", "--base", "base", "--edited", "edited", "-o", "new.safetensors")
    assert (result.exit_code, "unet/ alone is patched" in result.stderr) == (1, True)


def test_a_patch_that_says_of_itself_what_it_is_not_is_refused(weights: dict[str, Tensor]) -> None:
    save_file(change(weights), "edited.safetensors")
    adopt("--rank", 2)
    patch = read_patch(Path("trained.safetensors"))
    for field, value in (
        ("rank", 1),
        ("rank", None),
        ("solver", {"method": "adopt", "rank": 1}),
        ("solver", {"method": "adopt", "rank": None}),
        ("solver", {"method": "adopt"}),
        ("solver", {"method": "adopt", "rank": 2, "by": "hand"}),
    ):
        said_of_itself = {**patch.metadata, field: value}
        del said_of_itself["content"]
        forged = make_patch(
            patch.directions,
            patch.coefficients,
            patch.metadata["layouts"],
            said_of_itself,
            patch.deltas,
        )
        Path("forged.safetensors").write_bytes(forged.to_bytes())
        with pytest.raises(PatchError, match=r"rank|solver"):
            read_patch(Path("forged.safetensors"))
    assert json.dumps(patch.metadata["solver"]) == '{"method": "adopt", "rank": 2}'
