"""Fixtures that more than one file uses: golden numbers, tiny weights, a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cases import tiny_stylegan2
from tests.preloaded import preloaded_program

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
INVALID = TESTS / "invalid"


# A machine that does other work, too, may take ten times as long for an example.
hypothesis_settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("patient")

# A shell lets its background jobs ignore interrupts, and so would the processes that tests start
# and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first.

    Processes share the files in this order, and end together where the last ones are short.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def golden() -> dict[str, dict[str, Tensor]]:
    """The golden tensors by the name of their file."""
    return {path.stem: load_file(path) for path in GOLDEN.glob("*.safetensors")}


@pytest.fixture(scope="session")
def record() -> dict[str, Any]:
    """The golden edit record, and the extra masks."""
    return json.loads((GOLDEN / "masks.json").read_text())


@pytest.fixture
def golden_spec(record: dict[str, Any]) -> Any:
    """A function that makes the golden edit as a spec, as plain data."""

    def make(
        layer: str, solver: dict[str, Any], rank: int = 1, family: str = "stylegan2"
    ) -> dict[str, Any]:
        def place(entry: list[Any]) -> dict[str, Any]:
            return {"latent": entry[0], "mask": entry[1]}

        copied, weights = record["record"], {"stylegan2": "sg2_g_ema", "proggan": "pg_state_dict"}
        return {
            "version": 1,
            "model": {"family": family, "weights": str(GOLDEN / f"{weights[family]}.safetensors")},
            "latents": {"seed": 1, "sampler": "numpy-legacy"},
            "statistics": {"samples": 64, "seed": 1},
            "precision": "float64",
            "compatibility": "rewriting-2020",
            "edits": [
                {
                    "name": "golden",
                    "layer": layer,
                    "rank": rank,
                    "source": place(copied["object"]),
                    "target": place(copied["paste"]),
                    "context": [place(key) for key in copied["key"]],
                    "solver": solver,
                }
            ],
        }

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for every test."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDITSPEC_CACHE", str(cache))
    return cache


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that is empty for every file of tests."""
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture
def one_cache(shared_cache: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all tests of a file, in place of an empty one for every test."""
    monkeypatch.setenv("EDITSPEC_CACHE", str(shared_cache))


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Leave the number of threads as it was."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the one that EDITSPEC_BROWSER names, else Debian's.

    Of a module, not of the session: playwright keeps an event loop running, and other tests may run
    their own.
    """
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("EDITSPEC_BROWSER") or shutil.which("chromium")
    if executable is None:
        missing = (
            "no Chromium to open pages with:"
            " apt-get install chromium, or set EDITSPEC_BROWSER to one"
        )
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with sync_playwright() as playwright:
        # Chromium refuses to sandbox itself as root, and /dev/shm is small in containers.
        chromium = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def program() -> Iterator[Path]:
    """The command editspec, in processes of its own that begin at once: see `tests.preloaded`."""
    with TemporaryDirectory() as folder, preloaded_program(Path(folder)) as made:
        yield made


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., dict[str, Tensor]]:
    """A function that makes random weights of a StyleGAN2 with few channels."""
    return tiny_stylegan2


@pytest.fixture
def tiny() -> dict[str, Tensor]:
    """A StyleGAN2 of 32 x 32 pixels, 6 channels and 8 numbers a latent."""
    return tiny_stylegan2()


@pytest.fixture
def tiny_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a StyleGAN2 of 16 x 16 pixels: ``tiny.safetensors``."""
    monkeypatch.chdir(tmp_path)
    save_file(tiny_stylegan2(size=16), "tiny.safetensors")
    return tmp_path


@pytest.fixture(scope="session")
def tiny_spec() -> Callable[..., Path]:
    """Writes a spec of edits of a tiny StyleGAN2, and its weights, into a folder: ``spec.yaml``."""

    def write(folder: Path, edits: int = 1, steps: int = 3, **fields: Any) -> Path:
        save_file(tiny_stylegan2(size=16), folder / "tiny.safetensors")
        content = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
            "statistics": {"samples": 16},
            "edits": [
                {
                    "name": f"edit-{number}",
                    "layer": f"layer{5 + number % 2}",
                    "source": {"latent": 2 + number, "mask": {"box": [4, 4, 12, 12]}},
                    "target": {"latent": 1, "mask": {"box": [2, 2, 10, 10]}},
                    "solver": {"method": "direct", "steps": steps, "learning_rate": 0.01},
                    **fields,
                }
                for number in range(edits)
            ],
        }
        path = folder / "spec.yaml"
        path.write_text(json.dumps(content))
        return path

    return write
