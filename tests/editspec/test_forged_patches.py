"""Forged patches: whatever a patch says of itself that its tensors are not, `verify` refuses it.

Each forgery is signed anew and names the weights that it really gives, so that no digest tells it
from what a build makes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from editspec.commands.verify import verify
from editspec_runtime.errors import EditError, PatchError, WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.files import canonical_json, safetensors_bytes
from editspec_runtime.patches.patch import Patch, apply_stack, read_patch
from editspec_runtime.patches.soundness import FIELDS, OPTIONAL
from tests.commands import run

BASE = "tiny.safetensors"
Parts = tuple[dict[str, Tensor], dict[str, Any]]
Forge = Callable[[dict[str, Tensor], dict[str, Any]], None]
"""Changes the tensors and the metadata of a patch in place."""

PARAMETER, OTHER = "convs.2.conv.weight", "convs.3.conv.weight"


@pytest.fixture
def patch(tiny_spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A patch of rank 2 of layer 5."""
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path, rank=2)
    assert run("build", "spec.yaml", "-o", "out").exit_code == 0
    (path,) = Path("out/patches").iterdir()
    return path


def sign(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """A patch file whose result and content are what they should be, as far as there are any."""
    said = dict(metadata)
    # Nothing comes of some.
    with suppress(EditError, RuntimeError, IndexError, ValueError, KeyError, AttributeError):
        result = apply_stack(read_weights(Path(BASE)).tensors, [Patch.of(tensors, said)])
        said["result"] = tensors_digest(result)
    unsigned = {name: value for name, value in said.items() if name != "content"}
    with suppress(KeyError):  # of a dtype without a name
        said["content"] = digest({"metadata": unsigned, "tensors": tensors_digest(tensors)})
    return safetensors_bytes(tensors, said)


def parts_of(path: Path) -> Parts:
    read = read_patch(path)
    return dict(read.tensors()), dict(read.metadata)


def field(name: str, value: Any) -> Forge:
    def forge(_: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        metadata[name] = value

    return forge


def without(name: str) -> Forge:
    def forge(_: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        del metadata[name]

    return forge


def tensor(suffix: str, change: Callable[[Tensor], Tensor]) -> Forge:
    def forge(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        tensors[PARAMETER + suffix] = change(tensors[PARAMETER + suffix]).contiguous()

    return forge


def deltas_elsewhere(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Factors on one layer, and full random changes of all other parameters."""
    layouts = dict(metadata["layouts"])
    for name, weight in read_weights(Path(BASE)).tensors.items():
        if name != PARAMETER and weight.is_floating_point():
            tensors[f"{name}.delta"] = 0.1 * torch.randn(weight.shape)
            layouts[name] = " ".join("x" * weight.ndim)
    metadata["layouts"] = layouts


def deltas_elsewhere_by_a_method_without_rank(
    tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> None:
    deltas_elsewhere(tensors, metadata)
    metadata |= {"solver": {"method": "all-weights"}, "rank": None}


def a_delta_alone(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """A full change by a method that has a rank."""
    tensors.clear()
    tensors[f"{PARAMETER}.delta"] = torch.randn(read_weights(Path(BASE))[PARAMETER].shape)


def a_delta_that_says_no_rank(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    a_delta_alone(tensors, metadata)
    metadata["rank"] = None


def the_factors_of_another_layer(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    for suffix in (".D", ".A"):
        tensors[OTHER + suffix] = tensors.pop(PARAMETER + suffix)
    metadata["layouts"] = {OTHER: metadata["layouts"][PARAMETER]}


def factors_on_two_layers(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    for suffix in (".D", ".A"):
        tensors[OTHER + suffix] = tensors[PARAMETER + suffix].clone()
    metadata["layouts"] = dict.fromkeys((PARAMETER, OTHER), metadata["layouts"][PARAMETER])


def two_layers_of_one(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    metadata["layers"] = [metadata.pop("layer"), "layer6"]
    metadata["collateral"]["layer6"] = metadata["collateral"]["layer5"]


def collateral(change: Callable[[dict[str, Any]], Any]) -> Forge:
    def forge(_: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        metadata["collateral"] = change(metadata["collateral"])

    return forge


def composed_of_nothing(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    metadata |= {"solver": {"method": "compose", "rank": None}}


def composed_to_a_lower_rank(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    metadata |= {"solver": {"method": "compose", "rank": 1}, "composed": ["0" * 64]}
    del metadata["collateral"]


def factors_of_no_axes(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    for suffix in (".D", ".A"):
        tensors[PARAMETER + suffix] = torch.tensor(1.0)


def layouts(value: str) -> Forge:
    return field("layouts", {PARAMETER: value})


FORGERIES: dict[str, Forge] = {
    "deltas elsewhere": deltas_elsewhere,
    "deltas elsewhere, no rank": deltas_elsewhere_by_a_method_without_rank,
    "a delta alone": a_delta_alone,
    "a delta without rank": a_delta_that_says_no_rank,
    "another layer's factors": the_factors_of_another_layer,
    "factors on two layers": factors_on_two_layers,
    "two layers of one": two_layers_of_one,
    "rank null": field("rank", None),
    "rank true": field("rank", True),
    "rank 2.0": field("rank", 2.0),
    "rank text": field("rank", "2"),
    "rank 3": field("rank", 3),
    "rank 0": field("rank", 0),
    "name list": field("name", ["edit-0"]),
    "name null": field("name", None),
    "name a path": field("name", "../../edit"),
    "name an escape": field("name", "edit\x1b[31m"),
    "name empty": field("name", ""),
    "family number": field("family", 2),
    "family unknown": field("family", "stylegan9"),
    "family another": field("family", "proggan"),
    "layer list": field("layer", ["layer5"]),
    "layer another": field("layer", "layer4"),
    "layer unknown": field("layer", "layer99"),
    "layer and layers": field("layers", ["layer5", "layer6"]),
    "no layer": without("layer"),
    "edit short": field("edit", "00"),
    "edit number": field("edit", 0),
    "base list": field("base", []),
    "version true": field("version", True),
    "version 1.0": field("version", 1.0),
    "version list": field("version", [1]),
    "solver text": field("solver", "direct"),
    "solver empty": field("solver", {}),
    "solver unknown": field("solver", {"method": "magic"}),
    "solver list": field("solver", {"method": ["direct"]}),
    "solver settings": field("solver", {"method": "direct", "steps": "many"}),
    "solver other settings": field("solver", {"method": "direct", "unheard": 1}),
    "solver without rank": field("solver", {"method": "layer"}),
    "composed of nothing": composed_of_nothing,
    "composed alone": field("composed", ["0" * 64]),
    "composed lower": composed_to_a_lower_rank,
    "unknown field": field("note", "trust me"),
    "collateral list": collateral(lambda found: [found]),
    "collateral another": collateral(lambda found: {"layer4": found["layer5"]}),
    "collateral more": collateral(lambda found: {**found, "layer4": found["layer5"]}),
    "collateral text": collateral(lambda found: {"layer5": "small"}),
    "collateral true": collateral(lambda found: {"layer5": dict.fromkeys(found["layer5"], True)}),
    "collateral fewer": collateral(lambda found: {"layer5": {"energy": 1.0}}),
    "collateral null": field("collateral", None),
    "layouts list": field("layouts", [PARAMETER]),
    "layouts none": field("layouts", {}),
    "layouts more": field("layouts", {PARAMETER: "1 o i y x", OTHER: "1 o i y x"}),
    "layouts number": field("layouts", {PARAMETER: 5}),
    "layout empty": layouts(""),
    "layout turned": layouts("1 i o y x"),
    "layout short": layouts("o i"),
    "layout without the one": layouts("o i y x"),
    "layout foreign": layouts("1 o i q x"),
    "no axes": factors_of_no_axes,
    "D of no axes": tensor(".D", lambda _: torch.tensor(1.0)),
    "A of no axes": tensor(".A", lambda _: torch.tensor(1.0)),
    "D of one axis": tensor(".D", lambda d: d[0]),
    "D of three axes": tensor(".D", lambda d: d[None]),
    "A of one axis": tensor(".A", lambda a: a.flatten()),
    "A of two axes": tensor(".A", lambda a: a[..., 0, 0]),
    "rows of D": tensor(".D", lambda d: d[:1]),
    "columns of A": tensor(".A", lambda a: a[:, :1]),
    "empty D": tensor(".D", lambda d: d[:, :0]),
    "D of fewer inputs": tensor(".D", lambda d: torch.eye(2)),
    "A of fewer outputs": tensor(".A", lambda a: a[:2]),
    "D of eight bits": tensor(".D", lambda d: d.to(torch.float8_e4m3fn)),
    "A of eight bits": tensor(".A", lambda a: a.to(torch.float8_e5m2)),
    "A of integers": tensor(".A", lambda a: a.int()),
    "D not orthonormal": tensor(".D", lambda d: 2 * d),
    "D of equal rows": tensor(".D", lambda d: d[[0, 0]]),
    "A not finite": tensor(".A", lambda a: a / 0),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_patch_is_refused(patch: Path, forge: Forge) -> None:
    # The control: signed anew and otherwise as it was, it is what the build made.
    tensors, metadata = parts_of(patch)
    whole = patch.read_bytes()
    assert sign(tensors, metadata) == whole
    torch.manual_seed(0)
    forge(tensors, metadata)
    forged = sign(tensors, metadata)
    assert forged != whole
    patch.write_bytes(forged)
    refused = run("verify", patch, "--model", BASE)
    assert refused.exit_code == 1
    assert "defect" not in refused.stderr
    assert "\x1b" not in refused.stderr
    with pytest.raises((PatchError, WeightsError)):
        verify(BASE, [patch])


@pytest.mark.parametrize("metadata", ["[" * 100_000, '{"rank":' + "9" * 5000 + "}", "[]", "{}"])
def test_metadata_that_no_reader_gets_through_are_refused(patch: Path, metadata: str) -> None:
    tensors, _ = parts_of(patch)
    patch.write_bytes(save(tensors, {"editspec": metadata}))
    with pytest.raises(EditError):
        read_patch(patch)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(patch: Path, number: str) -> None:
    tensors, metadata = parts_of(patch)
    metadata["collateral"]["layer5"]["energy"] = 123456789
    text = canonical_json(metadata).replace("123456789", number)
    patch.write_bytes(save(tensors, {"editspec": text}))
    with pytest.raises(EditError, match=r"collateral|not JSON"):
        read_patch(patch)


def test_what_a_build_makes_passes(
    tiny_spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of method, and stacks that were composed of them."""
    monkeypatch.chdir(tmp_path)
    solvers: dict[str, dict[str, Any]] = {
        "low-rank": {"steps": 3},
        "layer": {"steps": 3},
        "all-weights": {"steps": 3},
        "least-squares": {},
    }
    for name, settings in solvers.items():
        tiny_spec(tmp_path, solver={"method": name, **settings})
        built = run("build", "spec.yaml", "-o", name)
        assert built.exit_code == 0, built.stderr
        (made,) = Path(name, "patches").iterdir()
        assert verify(BASE, [made]).verified
        assert run("compose", made, "-o", f"{name}.safetensors").exit_code == 0
        assert verify(BASE, [f"{name}.safetensors"]).verified


def test_the_fields_of_a_patch_are_documented() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "supply-chain.md").read_text()
    table = re.search(r"\| field \| there \|.*\n\|[-|]+\n((?:\|.*\n)+)", docs)
    assert table is not None
    documented: dict[str, str] = {}
    for line in table[1].splitlines():
        names, there = line.strip("|").split("|")[:2]
        documented |= dict.fromkeys(re.findall(r"`(\w+)`", names), there.strip())
    assert set(documented) == {*FIELDS, *OPTIONAL}
    assert {name for name, there in documented.items() if there == "always"} == set(FIELDS)
