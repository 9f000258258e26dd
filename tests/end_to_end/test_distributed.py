"""Runs of several processes: the same bytes whatever their number, whoever is killed; one message
where one fails.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec.worlds.skyline import WEIGHTS
from editspec_runtime.errors import FileError, NumericalError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.files import read_tensors
from editspec_runtime.modalities.image.latents import LatentStream

# A server that has torch loaded forks each process at once: no second of start-up for each of them.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["editspec.commands.build", "editspec.commands.sweep", "torch.distributed"]
)

LONG = 30
"""Blocks of the run that is killed."""

PATIENCE = 60
"""Seconds after which a run counts as one that hangs."""


def ranked(
    folder: str, rank: int, variables: dict[str, str], arguments: list[str], breaking: str
) -> None:
    """What one process of a run does; what it prints goes to RANK.out and RANK.err."""
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
    os.chdir(folder)
    for stream, name in ((1, f"{rank}.out"), (2, f"{rank}.err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    torch.set_num_threads(1)
    if breaking:
        globals()[breaking]()
    sys.argv = ["editspec", *arguments]
    from editspec.cli.main import main

    main()


def another_version() -> None:
    from editspec_runtime.maths import environment

    environment.__version__ = "another"


def full_disk() -> None:
    from editspec_runtime.io import cache

    def write(path: Path, data: bytes) -> None:
        raise FileError(f"Cannot write {path.name}: No space left on device.")

    cache.write = write


def no_answer() -> None:
    from editspec_runtime.maths import moments

    def refuse(*_: object) -> None:
        raise NumericalError("There is no answer.")

    moments.add_outer_products = refuse


def defect() -> None:
    from editspec_runtime.maths import moments as statistics

    statistics.add_outer_products = lambda total, rows, weights: 1 // 0


def small_bench() -> None:
    from editspec.worlds.skyline.bench import experiments, run

    experiments.folder = run.specs_folder = lambda: Path("specs")
    run.EXPERIMENTS = {"dome-to-spire": experiments.EXPERIMENTS["dome-to-spire"]}
    run.CHUNK = 4


@dataclass
class Run:
    """The processes of one run."""

    folder: Path
    processes: list[Any]

    def ended(self) -> list[int]:
        """Their exit codes."""
        end = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.exitcode is None:
                for each in self.processes:
                    each.kill()
                pytest.fail("the run hangs")
        return [process.exitcode for process in self.processes]

    def printed(self, rank: int, where: str) -> str:
        """What a process printed."""
        return (self.folder / f"{rank}.{where}").read_text()

    def said(self) -> dict[str, Any]:
        """The JSON object of the first process; the others have printed nothing."""
        assert set(self.ended()) == {0}, self.printed(0, "err")
        for rank in range(1, len(self.processes)):
            assert self.printed(rank, "out") + self.printed(rank, "err") == ""
        return json.loads(self.printed(0, "out"))


def started(folder: Path, count: int, *arguments: str, breaking: str = "", broken: int = 1) -> Run:
    """Start `count` processes as a launcher does; one of them, `broken`, calls the function
    `breaking` first.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "EDITSPEC_CACHE": os.environ["EDITSPEC_CACHE"],
    }
    processes = []
    for rank in range(count):
        given = (str(folder), rank, variables, list(arguments), breaking if rank == broken else "")
        processes.append(CONTEXT.Process(target=ranked, args=given))
        processes[-1].start()
    return Run(folder, processes)


def spec(
    samples: int, weights: str = "builtin:skyline", layer: str = "layer4", **settings: Any
) -> str:
    place = {"latent": 1, "mask": {"box": [2, 2, 20, 20]}}
    edit = {
        "name": "one",
        "layer": layer,
        "source": {**place, "latent": 2},
        "target": place,
        "solver": {"method": "direct", "steps": 5},
        **settings,
    }
    return yaml.safe_dump(
        {
            "version": 1,
            "model": {"family": "stylegan2", "weights": weights},
            "statistics": {"samples": samples},
            "edits": [edit],
        }
    )


@pytest.fixture
def folder(make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path) -> Path:
    save_file(make_tiny(), tmp_path / "tiny.safetensors")
    (tmp_path / "skyline.yaml").write_text(spec(600))
    (tmp_path / "long.yaml").write_text(spec(256 * LONG, "tiny.safetensors", "layer5"))
    return tmp_path


@pytest.fixture
def emptied(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """Makes another empty cache."""

    def make() -> Path:
        cache = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv("EDITSPEC_CACHE", str(cache))
        return cache

    return make


def blocks(cache: Path) -> list[Path]:
    return sorted((cache / "blocks").glob("*.safetensors"))


def statistics(folder: Path, count: int, name: str = "skyline.yaml") -> dict[str, Any]:
    (entry,) = started(folder, count, "statistics", name, "--json", "--device", "cpu").said()[
        "statistics"
    ]
    return entry


def test_c_is_the_same_for_one_two_and_four(folder: Path, emptied: Callable[[], Path]) -> None:
    digests = set()
    for count in (1, 2, 4):
        cache = emptied()
        found = statistics(folder, count)
        assert not found["cached"]
        assert blocks(cache) == []  # they were there, and are no longer needed
        digests.add(found["digest"])
    assert len(digests) == 1
    assert statistics(folder, 2)["cached"]
    (kept,) = (cache / "statistics").iterdir()
    moment = read_tensors(kept)["second_moment"]
    model = StyleGAN2(read_weights(WEIGHTS).tensors)
    with torch.no_grad():
        key = model.trace(
            "layer4", LatentStream(2, model.architecture.latent_size).items(range(600))
        ).key
    rows = key.movedim(1, -1).flatten(0, 2).double()
    torch.testing.assert_close(moment, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-7)
    # Of other latents it is another: the equality above is not for free.
    emptied()
    (folder / "skyline.yaml").write_text(spec(601))
    assert statistics(folder, 2)["digest"] not in digests


def test_a_build_of_two_is_that_of_one(folder: Path, emptied: Callable[[], Path]) -> None:
    written = []
    for count in (1, 2):
        emptied()
        (folder / "skyline.yaml.lock").unlink(missing_ok=True)
        out = folder / f"out-{count}"
        run = started(
            folder, count, "build", "skyline.yaml", "-o", str(out), "--json", "--device", "cpu"
        )
        assert run.said()["edits"][0]["status"] == "new"
        files = {
            str(path.relative_to(out)): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file()
        }
        written.append({**files, "lock": (folder / "skyline.yaml.lock").read_bytes()})
    assert written[0] == written[1]
    assert len(written[0]) == 4


def test_points_of_a_sweep_are_divided(folder: Path, emptied: Callable[[], Path]) -> None:
    found = []
    for count in (1, 3):
        emptied()
        arguments = [
            "--layers",
            "layer4,layer5",
            "--ranks",
            "1,2,900",
            "--images",
            "8",
            "--device",
            "cpu",
            "--json",
        ]
        run = started(folder, count, "sweep", "skyline.yaml", "-o", f"sweep-{count}", *arguments)
        found.append(run.said())
    points = [
        [{n: v for n, v in point.items() if n != "seconds"} for point in each["points"]]
        for each in found
    ]
    assert points[0] == points[1]
    assert found[0]["winner"] == found[1]["winner"]
    assert len(points[0]) == 6
    assert ["problem" in point for point in points[0]] == [False, False, True] * 2
    assert (folder / "sweep-1" / "winner.yaml").read_bytes() == (
        folder / "sweep-3" / "winner.yaml"
    ).read_bytes()


@pytest.mark.slow
def test_images_of_the_bench_are_divided(folder: Path, emptied: Callable[[], Path]) -> None:
    specs = folder / "specs" / "dome-to-spire"
    specs.mkdir(parents=True)
    for method in ("projected-gradient", "all-weights"):
        settings = {"method": method, "steps": 2, "learning_rate": 0.001}
        (specs / f"{method}.yaml").write_text(spec(32, solver=settings))
    three = yaml.safe_load(spec(32))
    three["edits"] = [{**three["edits"][0], "name": name} for name in ("one", "two", "three")]
    (folder / "specs" / "succession.yaml").write_text(yaml.safe_dump(three))
    found = []
    for count in (1, 2):
        arguments = [
            "bench",
            "paper",
            "-o",
            f"bench-{count}",
            "--images",
            "8",
            "--device",
            "cpu",
            "--json",
        ]
        found.append(started(folder, count, *arguments, breaking="small_bench", broken=0).said())
    rows = [each["tables"][0].pop("rows") for each in found]
    assert found[0] == found[1]
    assert [row.pop("seconds") is not None for row in rows[0]] == [
        row.pop("seconds") is not None for row in rows[1]
    ]
    assert rows[0] == rows[1]
    assert [row["n"] for row in rows[0]] == [8] * 5
    assert rows[0][0]["outside"] != rows[0][1]["outside"]


def test_code_of_others_runs_in_every_process(folder: Path, emptied: Callable[[], Path]) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))\n"
    )
    random = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (6, 8), "0.bias": (6,), "2.weight": (4, 6), "2.bias": (4,)}
    save_file(
        {name: torch.randn(shape, generator=random) for name, shape in shapes.items()},
        folder / "net.safetensors",
    )
    model = {
        "family": "torch",
        "weights": "net.safetensors",
        "module": "net:make",
        "latent_shape": [8],
    }
    content = {**yaml.safe_load(spec(600, layer="2")), "model": model}
    (folder / "skyline.yaml").write_text(yaml.safe_dump(content))
    digests = []
    for count in (1, 2):
        emptied()
        run = started(
            folder, count, "statistics", "skyline.yaml", "--json", "--device", "cpu", "--allow-code"
        )
        digests.append(run.said()["statistics"][0]["digest"])
    assert digests[0] == digests[1]


def halfway(run: Run, cache: Path, count: int) -> None:
    """Wait until some blocks are there."""
    end = time.monotonic() + PATIENCE
    while len(blocks(cache)) < count:
        assert time.monotonic() < end
        assert any(process.exitcode is None for process in run.processes), run.printed(0, "err")
        time.sleep(0.002)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed(folder: Path, emptied: Callable[[], Path], victim: int) -> None:
    emptied()
    wanted = statistics(folder, 1, "long.yaml")["digest"]
    cache = emptied()
    run = started(folder, 2, "statistics", "long.yaml", "--device", "cpu")
    halfway(run, cache, 4)
    run.processes[victim].kill()
    codes = run.ended()
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    if victim == 1:
        assert run.printed(0, "err").count("A worker has ended") == 1
    assert "Traceback" not in "".join(run.printed(rank, "err") for rank in (0, 1))
    kept = blocks(cache)
    assert 4 <= len(kept) < LONG
    again = statistics(folder, 4, "long.yaml")
    assert again["digest"] == wanted
    assert not again["cached"]


def test_finished_blocks_are_used(folder: Path, emptied: Callable[[], Path]) -> None:
    wanted = statistics(folder, 1, "long.yaml")["digest"]
    cache = emptied()
    run = started(folder, 2, "statistics", "long.yaml", "--device", "cpu")
    halfway(run, cache, 4)
    run.processes[1].kill()
    run.ended()
    # Another sum under the name of one that was kept: had all been computed again, nobody would
    # notice.
    kept = blocks(cache)[0]
    other = {name: 2 * tensor for name, tensor in load_file(kept).items()}
    kept.unlink()
    Cache(cache).tensors("blocks", kept.stem, lambda: other)
    assert statistics(folder, 2, "long.yaml")["digest"] != wanted


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        ("no_answer", "worker 1: There is no answer"),
        ("defect", "worker 1: ZeroDivisionError"),
        ("another_version", "worker 1"),
    ],
)
def test_an_error_of_a_helper_ends_all_with_its_message(
    folder: Path, breaking: str, message: str
) -> None:
    run = started(
        folder, 3, "statistics", "skyline.yaml", "--json", "--device", "cpu", breaking=breaking
    )
    assert run.ended() == [1, 1, 1]
    assert run.printed(0, "err").count(message) == 1
    assert "Traceback" not in run.printed(0, "err")
    assert message in json.loads(run.printed(0, "out"))["error"]["message"]
    for rank in (1, 2):
        assert run.printed(rank, "out") + run.printed(rank, "err") == ""


def test_a_full_disk_of_a_helper_costs_a_warning_and_no_work(folder: Path) -> None:
    arguments = (folder, 3, "statistics", "skyline.yaml", "--json", "--device", "cpu")
    run = started(*arguments, breaking="full_disk")
    assert run.ended() == [0, 0, 0]
    assert run.printed(1, "err").count("warning:") == 1
    assert "EDITSPEC_CACHE" in run.printed(1, "err")
    assert "warning:" not in run.printed(0, "err")


def test_an_error_of_the_first_ends_all_with_its_message(folder: Path) -> None:
    (folder / "skyline.yaml").write_text(spec(600, layer="layer12"))
    for arguments, code in (
        (["skyline.yaml"], 2),
        (["missing.yaml"], 2),
        (["--help"], 0),
        (["skyline.yaml", "--x"], 2),
    ):
        run = started(folder, 2, "statistics", *arguments)
        assert run.ended() == [code, code]
        assert (run.printed(0, "err") != "") is bool(code)
        assert run.printed(1, "out") + run.printed(1, "err") == ""


def nobody_comes() -> None:
    from editspec_runtime.executors import processes as distributed

    os.environ["WORLD_SIZE"] = "2"
    distributed.MEETING = timedelta(seconds=1)


def unknown_rank() -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": "zero"}


def no_launcher() -> None:
    os.environ["WORLD_SIZE"] = "2"
    del os.environ["MASTER_ADDR"]


@pytest.mark.parametrize("breaking", ["nobody_comes", "unknown_rank", "no_launcher"])
def test_processes_that_do_not_meet_say_so(folder: Path, breaking: str) -> None:
    run = started(folder, 1, "statistics", "skyline.yaml", "--json", breaking=breaking, broken=0)
    assert run.ended() == [1]
    assert run.printed(0, "err").count("The processes of this run cannot find one another") == 1
    assert "Traceback" not in run.printed(0, "err")
    if breaking != "unknown_rank":
        assert "cannot find one another" in json.loads(run.printed(0, "out"))["error"]["message"]


def no_network() -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "none-of-that-name"


def test_workers_that_cannot_be_connected_say_why(folder: Path) -> None:
    run = started(
        folder, 2, "statistics", "skyline.yaml", "--device", "cpu", breaking="no_network", broken=0
    )
    assert run.ended() == [1, 1]
    assert run.printed(0, "err").count("The workers cannot be connected") == 1
    assert "none-of-that-name" in run.printed(0, "err")
    assert "A worker has ended before its work was done" not in run.printed(0, "err")


@pytest.mark.slow
def test_torchrun_restarts_what_was_killed(folder: Path, emptied: Callable[[], Path]) -> None:
    wanted = statistics(folder, 1, "long.yaml")["digest"]
    cache = emptied()
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command = [
        *launcher,
        "--max-restarts",
        "1",
        "-m",
        "editspec",
        "statistics",
        "long.yaml",
        "--json",
    ]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + PATIENCE
    while len(blocks(cache)) < 4:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.002)
    os.kill(helper_of(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["statistics"][0]["digest"] == wanted


def helper_of(launcher: int) -> int:
    """The process of rank 1 among the children of torchrun."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if b"RANK=1" in variables:
            return int(child)
    raise AssertionError("torchrun has no such child")
