"""Work on several processes: the same bytes whatever their number, whoever is killed or joins."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import distributed
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from benchmarks import many_machines
from benchmarks.many_machines import draw_times, kill_worker
from benchmarks.many_machines import run as simulate_job
from editspec.commands import ci
from editspec.engine import tuning
from editspec.engine.model_session import ModelSession
from editspec.engine.resources import use_executor
from editspec.engine.session import BuildSession
from editspec.engine.trials import Judgement, TrialSolver
from editspec.modalities.text.judge import TextJudge
from editspec_compiler import SpecError, load
from editspec_compiler.problems import Problem
from editspec_runtime.core.executor import Executor, InProcess
from editspec_runtime.core.progress import no_progress
from editspec_runtime.errors import (
    CodeError,
    EditError,
    NumericalError,
    OutOfMemory,
    UsageError,
    WorkerError,
)
from editspec_runtime.executors import dask_cluster, dask_crew, work
from editspec_runtime.executors.dask_cluster import DaskCluster, open_cluster
from editspec_runtime.executors.local import LocalProcesses
from editspec_runtime.executors.registry import open_executor
from editspec_runtime.executors.work import Failure, compute_item, pack_job
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.families.travelling import TravellingModels
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import tensor_digest
from editspec_runtime.io.foreign_code import ALLOW_CODE
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import contents, run, said
from tests.workers import Noted, fail

pytestmark = [
    # The engine's own threads close their sockets when they end, which may be after a test.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ATLAS = Path(__file__).parents[2] / "specs" / "atlas"

LONG = 30
"""Blocks of the run that is killed."""

PATIENCE = 60
"""Seconds after which work counts as work that hangs."""


@pytest.fixture(scope="module")
def processes() -> Iterator[LocalProcesses]:
    """Four processes, to which all work goes."""
    with LocalProcesses(4, start=0) as executor:
        yield executor


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    """A cluster of two processes, to which all work goes."""
    with open_cluster("local:2", start=0) as executor:
        yield executor


@pytest.fixture
def threads() -> Iterator[DaskCluster]:
    """A scheduler with one worker, which is a thread of this process."""
    made = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    )
    with DaskCluster(distributed.Client(made), made, start=0, patience=2) as executor:
        yield executor


@pytest.fixture
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    save_file(make_tiny(), tmp_path / "tiny.safetensors")
    (tmp_path / "tiny.yaml").write_text(spec(256 * 5))
    (tmp_path / "long.yaml").write_text(spec(256 * LONG))
    monkeypatch.chdir(tmp_path)
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


def spec(samples: int, layer: str = "layer5", **settings: Any) -> str:
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
            "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
            "statistics": {"samples": samples},
            "edits": [edit],
        }
    )


def blocks(cache: Path) -> list[Path]:
    return sorted((cache / "blocks").glob("*.safetensors"))


def moment(executor: Executor, name: str = "tiny.yaml") -> Tensor:
    """C of the layer of a spec."""
    with use_executor(executor):
        (found,) = editspec.statistics(name, device="cpu").moments
    assert not found.moment.cached
    return found.moment.matrix


def two_of(processes: LocalProcesses) -> LocalProcesses:
    """An executor of two processes that run already."""
    two = LocalProcesses(2, start=0)
    two._workers = processes._workers
    return two


def test_c_is_the_same_for_one_two_and_four(
    folder: Path,
    emptied: Callable[[], Path],
    processes: LocalProcesses,
    cluster: DaskCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for executor in (InProcess(), two_of(processes), processes, cluster):
        cache = emptied()
        found = moment(executor)
        assert blocks(cache) == []  # they were there, and are no longer needed
        if isinstance(executor, InProcess):
            wanted = found
        assert tensor_digest(found) == tensor_digest(wanted)
    model = StyleGAN2(load_file("tiny.safetensors"))
    with torch.no_grad():
        latents = LatentStream(2, model.architecture.latent_size).items(range(256 * 5))
        rows = model.trace("layer5", latents).key.movedim(1, -1).flatten(0, 2).double()
    torch.testing.assert_close(wanted, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-7)
    # Of other latents it is another: the equality above is not for free.
    emptied()
    Path("tiny.yaml").write_text(spec(256 * 5 + 1))
    assert tensor_digest(moment(processes)) != tensor_digest(wanted)


def test_a_build_on_workers_is_that_of_one_process(
    folder: Path, emptied: Callable[[], Path], processes: LocalProcesses
) -> None:
    edits = yaml.safe_load(spec(600))["edits"]
    whole = {**yaml.safe_load(spec(600)), "edits": [*edits, {**edits[0], "name": "two"}]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(whole))
    written = []
    for number, executor in enumerate((InProcess(), processes)):
        emptied()
        (folder / "tiny.yaml.lock").unlink(missing_ok=True)
        out = folder / f"out-{number}"
        with use_executor(executor):
            editspec.build("tiny.yaml", out, device="cpu")
        files = {
            str(path.relative_to(out)): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file()
        }
        written.append({**files, "lock": (folder / "tiny.yaml.lock").read_bytes()})
    assert written[0] == written[1]
    assert len(written[0]) == 6


@pytest.mark.parametrize(("kind", "deaths"), [("processes", 10), ("cluster", 2)])
def test_workers_that_are_killed_lose_only_their_items(
    kind: str, deaths: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    executor: Executor = request.getfixturevalue(kind)
    work = Noted(tmp_path / "log", 0.05)
    random_moments = random.Random(7)
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + PATIENCE
        while len(killed) < deaths and time.monotonic() < end:
            time.sleep(random_moments.uniform(0.05, 0.3))
            alive = {process for _, process in work.begun()} - set(killed)
            if alive:
                killed.append(random_moments.choice(sorted(alive)))
                os.kill(killed[-1], signal.SIGKILL)

    thread = Thread(target=kill)
    thread.start()
    items = range(400)
    found = []
    for result in executor.map(work, items):
        found.append(result)
        if len(killed) == deaths and len(found) > 60:
            break  # that is what was to be seen
    thread.join()
    assert found == [item * item for item in items[: len(found)]]
    assert len(killed) == deaths
    begun = [item for item, _ in work.begun()]
    repeated = len(begun) - len(set(begun))
    # A worker has the item that it computes, and those of which the command is just told.
    held = {"processes": 2, "cluster": 4}
    assert repeated <= held[kind] * len(killed)


def kill_at_moments(
    cache: Path, kill: Callable[[], bool], number: int, stopped: Event
) -> list[int]:
    """Kill at random moments, each when so many blocks are kept; return these numbers."""
    moments = sorted(random.Random(19).sample(range(1, LONG - 2), number))
    done = []
    while len(done) < number and not stopped.wait(0.002):
        if len(blocks(cache)) >= moments[len(done)] and kill():
            done.append(len(blocks(cache)))
    return done


def moment_with_deaths(executor: Executor, cache: Path, kill: Callable[[], bool]) -> Tensor:
    """C of the long spec, while workers are killed at ten random moments."""
    stopped = Event()
    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill_at_moments, cache, kill, 10, stopped)
        try:
            found = moment(executor, "long.yaml")
        finally:
            stopped.set()
    assert len(killer.result()) == 10
    return found


def test_c_is_the_same_where_workers_are_killed(
    folder: Path, emptied: Callable[[], Path], processes: LocalProcesses
) -> None:
    emptied()
    wanted = moment(InProcess(), "long.yaml")
    cache = emptied()
    assert list(processes.map(fail, ["a"] * 8)) == ["a"] * 8
    choose = random.Random(5)
    killed: set[int] = set()

    def kill() -> bool:
        """Kill one of the processes that run; False where all of them are just started."""
        running = [each.process for each in processes._workers if each.process.done()]
        alive = {each.result() for each in running if not each.exception()} - killed
        if not alive:
            return False
        victim = choose.choice(sorted(alive))
        killed.add(victim)
        os.kill(victim, signal.SIGKILL)
        return True

    assert tensor_digest(moment_with_deaths(processes, cache, kill)) == tensor_digest(wanted)
    assert len(killed) == 10
    processes.end()


def test_c_is_the_same_in_a_cluster_whose_workers_die_and_join(
    folder: Path, emptied: Callable[[], Path], threads: DaskCluster
) -> None:
    emptied()
    wanted = tensor_digest(moment(InProcess(), "long.yaml"))
    for count in (1, 2, 4):
        threads.cluster.scale(count)
        threads.client.wait_for_workers(count, timeout=PATIENCE)
        cache = emptied()
        if count < 4:
            assert tensor_digest(moment(threads, "long.yaml")) == wanted

    def kill() -> bool:
        """End a worker with the items that it has; another one joins."""
        kill_worker(threads)
        threads.cluster.scale(4)
        return True

    assert tensor_digest(moment_with_deaths(threads, cache, kill)) == wanted


def test_a_worker_that_joins_half_way_takes_part(threads: DaskCluster, tmp_path: Path) -> None:
    address = threads.client.scheduler.address
    joined = None
    found = []
    where = []
    for number, result in enumerate(threads.map(_where_and_square, range(40))):
        found.append(result[1])
        where.append(result[0])
        if number == 4:
            joined = _join(threads, address)
    assert joined is not None
    assert found == [item * item for item in range(40)]
    assert len(set(where[:5])) == 1
    assert len(set(where)) == 2


def _where_and_square(item: int) -> tuple[str, int]:
    time.sleep(0.05)
    return distributed.get_worker().address, item * item


def _join(executor: DaskCluster, address: str) -> object:
    executor.cluster.scale(2)
    executor.client.wait_for_workers(2, timeout=PATIENCE)
    return address


def leads(folder: str, cache: str) -> None:
    """A command that spreads C over two processes."""
    os.chdir(folder)
    os.environ["EDITSPEC_CACHE"] = cache
    torch.set_num_threads(1)
    with LocalProcesses(2, start=0) as executor:
        moment(executor, "long.yaml")


def test_a_command_that_was_killed_goes_on(folder: Path, emptied: Callable[[], Path]) -> None:
    emptied()
    wanted = moment(InProcess(), "long.yaml")
    cache = emptied()
    context = multiprocessing.get_context("forkserver")
    command = context.Process(target=leads, args=(str(folder), str(cache)))
    command.start()
    end = time.monotonic() + PATIENCE
    while len(blocks(cache)) < 4:
        assert time.monotonic() < end
        assert command.exitcode is None
        time.sleep(0.002)
    assert command.pid is not None
    helpers = descendants(command.pid)
    command.kill()
    command.join()
    kept = blocks(cache)
    assert 4 <= len(kept) < LONG
    while any(Path(f"/proc/{helper}").exists() for helper in helpers):
        assert time.monotonic() < end
        time.sleep(0.01)
    # Another sum under the name of one that was kept: had all been computed again, nobody would
    # notice.
    first = kept[0]
    own = load_file(first)
    Cache(cache).put("blocks", first.stem, {name: 2 * tensor for name, tensor in own.items()})
    assert tensor_digest(moment(InProcess(), "long.yaml")) != tensor_digest(wanted)
    (found,) = (cache / "statistics").iterdir()
    found.unlink()
    for block in kept:
        assert not block.exists()


def descendants(process: int) -> list[int]:
    """The children of a process, and theirs."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    found = [int(child) for child in children]
    return found + [each for child in found for each in descendants(child)]


def test_who_stops_ends_the_workers(tmp_path: Path) -> None:
    work = Noted(tmp_path / "log", 30)
    with LocalProcesses(2, start=0) as executor:
        results = executor.map(work, range(8))

        def interrupt() -> None:
            end = time.monotonic() + PATIENCE
            while len(work.begun()) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        thread = Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            next(results)
        thread.join()
        end = time.monotonic() + PATIENCE
        for _, process in work.begun():
            while Path(f"/proc/{process}").exists():
                assert time.monotonic() < end
                time.sleep(0.01)
        assert not executor._workers


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_an_error_of_a_worker_is_that_of_the_command(
    kind: str, request: pytest.FixtureRequest
) -> None:
    executor: Executor = request.getfixturevalue(kind)
    with pytest.raises(NumericalError) as found:
        list(executor.map(fail, ["well", "numbers", "well"]))
    assert (found.value.message, found.value.hint) == ("There is no answer.", "Give other numbers.")
    with pytest.raises(WorkerError, match=r"^worker \d+ on .* failed: ZeroDivisionError: nothing"):
        list(executor.map(fail, ["well", "defect"]))
    with pytest.raises(OutOfMemory):
        list(executor.map(fail, ["memory", "well"]))
    # Results of before the error come.
    assert next(executor.map(fail, ["well", "defect"])) == "well"
    assert list(executor.map(fail, ["a", "b"])) == ["a", "b"]


def test_an_item_that_ends_its_workers_ends_the_run(processes: LocalProcesses) -> None:
    with pytest.raises(WorkerError, match="5 workers have ended"):
        list(processes.map(fail, ["end", "well"]))


def test_errors_of_specs_travel() -> None:
    error = SpecError("a.yaml", [Problem("wrong", ("edits",), 1, 1, "do it")], "edits: 1\n")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_small_work_stays_here(tmp_path: Path) -> None:
    quick, slow = Noted(tmp_path / "quick", 0.0), Noted(tmp_path / "slow", 0.05)
    with LocalProcesses(2) as executor:
        assert list(executor.map(quick, range(20))) == [item**2 for item in range(20)]
        assert not executor._workers
    assert {process for _, process in quick.begun()} == {os.getpid()}
    with LocalProcesses(2, start=0.1) as executor:
        assert list(executor.map(slow, range(20))) == [item**2 for item in range(20)]
    others = {process for _, process in slow.begun()} - {os.getpid()}
    assert len(others) == 2
    # Work that all threads of this process share gains nothing from as many processes.
    with LocalProcesses(None, start=0.1) as executor:
        assert executor.workers == torch.get_num_threads()
        list(executor.map(slow, range(3), threaded=True))
        assert not executor._workers


def test_another_environment_is_refused_by_name(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_job(fail, torch.device("cpu"))
    job = pickle.loads(packed)
    job = dataclasses.replace(job, environment={**job.environment, "torch": "1.0"})
    outcome = pickle.loads(compute_item(pickle.dumps(job), "well"))
    assert isinstance(outcome, Failure)
    assert f"torch {torch.__version__}, and the command has 1.0" in str(outcome.error)
    assert f"worker {os.getpid()} on" in str(outcome.error)

    wanted = dask_cluster.find_environment(torch.device("cpu"))
    own = {**wanted, "device": "cpu AVX9"}
    monkeypatch.setattr(dask_cluster, "_environment", _other_environment)
    monkeypatch.setattr(dask_cluster, "find_environment", lambda device: own)
    with pytest.raises(WorkerError, match="cpu AVX9") as found:
        list(threads.map(fail, ["well", "well"]))
    assert "worker inproc://" in found.value.message
    assert pickle.loads(compute_item(packed, "well")) == "well"


def _other_environment(device: str) -> dict[str, str]:
    return work.find_environment(torch.device(device))


def session_of(name: str) -> ModelSession:
    return BuildSession.of(load(name), "cpu", no_progress)


def _weight(model: Any, item: str) -> tuple[str, Tensor]:
    return model.weights.digest(), model.weights[item]


@dataclasses.dataclass(frozen=True)
class Weighed:
    """A function that holds a model."""

    model: Any

    def __call__(self, item: str) -> tuple[str, Tensor]:
        return _weight(self.model, item)


def test_of_the_weights_only_what_has_changed_travels(folder: Path) -> None:
    session = session_of("tiny.yaml")
    base = session.current_model()
    names = list(base.weights)
    changed = base.with_weights(
        session.checkpoint.with_changes({names[1]: base.weights[names[1]] + 1})
    )
    executor = session.travelling
    assert isinstance(executor, TravellingModels)
    sizes = []
    for model in (base, changed):
        packed = pickle.dumps(_carried(executor, Weighed(model)))
        sizes.append(len(packed))
        for name in names[:3]:
            digest, tensor = pickle.loads(packed)(name)
            assert digest == model.weights.digest()
            assert torch.equal(tensor, model.weights[name])
    size = base.weights[names[1]].numel() * 4
    assert size <= sizes[1] - sizes[0] < size + 500
    assert sizes[0] < 5000 < sum(tensor.numel() * 4 for tensor in base.weights.values())


def _carried(executor: TravellingModels, function: Any) -> Any:
    """The function as the inner executor is given it."""

    class Inner(InProcess):
        def map(self, function: Any, items: Any, device: Any = None, **needs: Any) -> Any:
            return function

    return dataclasses.replace(executor, executor=Inner()).map(function, [])


def test_weights_that_are_missing_or_others_are_named(folder: Path) -> None:
    executor = session_of("tiny.yaml").travelling
    packed = pickle.dumps(_carried(executor, Weighed(session_of("tiny.yaml").current_model())))
    weights = load_file("tiny.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, "tiny.safetensors")
    with pytest.raises(WorkerError, match=r"finds other weights in .*tiny"):
        pickle.loads(packed)
    Path("tiny.safetensors").unlink()
    with pytest.raises(WorkerError, match=r"does not find the weights .*tiny"):
        pickle.loads(packed)


def test_code_of_others_needs_the_permission_of_the_worker(
    folder: Path, emptied: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, processes: Any
) -> None:
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
    (folder / "net.yaml").write_text(yaml.safe_dump(content))
    with editspec.allow_code():
        session = session_of("net.yaml")
        packed = pickle.dumps(_carried(session.travelling, Weighed(session.current_model())))
        with pytest.raises(CodeError, match=f"may not run .*\n.*{ALLOW_CODE}=1"):
            pickle.loads(packed)
        monkeypatch.setenv(ALLOW_CODE, "1")
        assert pickle.loads(packed)("2.bias")[0] == session.base
        # Workers that the command starts have its permission.
        monkeypatch.delenv(ALLOW_CODE)
        digests = set()
        for executor in (InProcess(), processes):
            emptied()
            digests.add(tensor_digest(moment(executor, "net.yaml")))
    assert len(digests) == 1


def test_points_of_a_sweep_are_spread(folder: Path, processes: LocalProcesses) -> None:
    found = []
    for number, executor in enumerate((InProcess(), processes)):
        with use_executor(executor):
            result = editspec.sweep(
                "tiny.yaml",
                f"sweep-{number}",
                layers=["layer4", "layer5"],
                ranks=[1, 900],
                images=8,
                device="cpu",
            )
        found.append(result)
    points = [[{**point.to_dict(), "seconds": None} for point in result.points] for result in found]
    assert points[0] == points[1]
    assert [bool(point.problem) for point in found[0].points] == [False, True] * 2
    assert found[0].winner.layer == found[1].winner.layer


def test_images_of_checks_and_specs_of_a_review_are_spread(
    folder: Path, emptied: Callable[[], Path], processes: LocalProcesses
) -> None:
    checks = [
        {"measure": "collateral", "images": [{"latents": [0, 1, 2, 3]}]},
        {"measure": "trace", "edit": "one"},
    ]
    # Of two layers: a review says what the cache has when it comes to a spec.
    for layer in ("layer4", "layer5"):
        content = yaml.safe_load(spec(64, layer))
        content["checks"] = [{**each, "at_most": 1} for each in checks]
        Path(f"{layer}.yaml").write_text(yaml.safe_dump(content))
    specs = ["layer4.yaml", "layer5.yaml"]
    reviews, values, files = [], [], []
    for number, each in enumerate((InProcess(), processes)):
        emptied()
        with use_executor(each):
            reviews.append(editspec.ci_review(specs, f"review-{number}", device="cpu"))
            rows = editspec.check(specs[0], device="cpu").checks
        values.append([row.value for row in rows])
        files.append(contents(Path(f"review-{number}")))
    assert reviews[0].to_dict() == reviews[1].to_dict()
    assert values[0] == values[1]
    assert values[0][0] > 0
    assert files[0] == files[1]
    assert b"### Checks" in files[0]["summary.md"]


def test_specs_of_a_review_in_a_folder_that_is_not_shared_are_named(
    folder: Path, emptied: Callable[[], Path], processes: LocalProcesses
) -> None:
    emptied()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "summary.md").write_text("another run of another machine")
    work = ci._Each(_note_path, Path("elsewhere"), "cpu", no_progress, False, Cache(folder), b"key")
    begun = time.monotonic()
    with pytest.raises(WorkerError, match=f"does not see the folder {folder} as the command"):
        list(processes.map(work, [Path("one"), Path("two")]))
    assert time.monotonic() - begun < PATIENCE / 4
    (elsewhere / "summary.md").write_text("key")
    found = list(processes.map(work, [Path("one"), Path("two")]))
    assert [each.spec for each in found] == [Path("one"), Path("two")]


def _note_path(run: ci._Run) -> ci.CiSpec:
    return ci.CiSpec(run.path, ci.PASSED)


def test_files_of_a_spec_that_workers_do_not_see_are_named(folder: Path) -> None:
    Image.new("L", (32, 32), 255).save(folder / "mask.png")
    content = yaml.safe_load(spec(64))
    content["edits"][0]["target"]["mask"] = "mask.png"
    Path("masked.yaml").write_text(yaml.safe_dump(content))
    session = session_of("masked.yaml")
    executor = session.travelling
    assert isinstance(executor, TravellingModels)
    packed = pickle.dumps(_carried(executor, Named(session)))
    assert len(packed) < 20_000 < sum(each.numel() * 4 for each in session.checkpoint.values())
    assert pickle.loads(packed)("ignored") == session.base
    Image.new("L", (32, 32), 0).save(folder / "mask.png")
    with pytest.raises(WorkerError, match=r"finds another file .*mask\.png"):
        pickle.loads(packed)
    (folder / "mask.png").unlink()
    with pytest.raises(WorkerError, match=r"does not find the file .*mask\.png"):
        pickle.loads(packed)


@dataclasses.dataclass(frozen=True)
class Named:
    """A function that holds a session."""

    session: ModelSession

    def __call__(self, item: str) -> str:
        return self.session.current_model().weights.digest()


def test_trials_of_a_tuning_are_spread(
    folder: Path,
    emptied: Callable[[], Path],
    processes: LocalProcesses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "REFINED_STEPS", 2)
    edits = [*yaml.safe_load(spec(32))["edits"], *yaml.safe_load(spec(32, name="two"))["edits"]]
    content = {**yaml.safe_load(spec(32)), "edits": edits}
    Path("tuned.json").write_text(json.dumps(content))
    written = []
    for number, executor in enumerate((InProcess(), two_of(processes))):
        emptied()
        with use_executor(executor):
            out = Path(f"tune-{number}")
            few = {"layers": ["layer6"], "rounds": 1, "images": 16}
            editspec.tune("tuned.json", out, edit="two", device="cpu", **few)
        written.append(contents(out))
    assert written[0] == written[1]
    trials = json.loads(written[0]["tune.json"])["trials"]
    assert [trial["stage"] for trial in trials].count("last") == 4


def test_trials_of_facts_travel(emptied: Callable[[], Path]) -> None:
    emptied()
    session = session_of(str(ATLAS / "one_fact.yaml"))
    solver = TrialSolver(session, 0, TextJudge(session, 0))
    fields = {"optimise": {"evaluations": 2}, "context": {"prefixes": 0}}
    wanted = solver(fields)
    packed = pickle.dumps(_carried(session.travelling, solver))
    assert len(packed) < 100_000 < sum(each.numel() for each in session.checkpoint.values())
    emptied()
    assert pickle.loads(packed)(fields) == wanted
    assert isinstance(wanted, Judgement)
    more = {**fields, "optimise": {"evaluations": 12}}
    assert pickle.loads(packed)(more) != wanted


def test_the_simulation_waits_as_long_as_it_says(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = draw_times(0.02, 20)
    assert times == draw_times(0.02, 20)
    assert abs(sum(times) / len(times) - 0.02) < 0.002
    outcome = simulate_job(threads, times)
    assert outcome.ideal == pytest.approx(sum(times))
    assert outcome.ideal <= outcome.seconds < PATIENCE
    # Half a second of each job, of which two workers do half each.
    monkeypatch.setattr(many_machines, "FASTER", (20,))
    report = list(many_machines.simulate(2, 0.002))
    assert [line for line in report if line.startswith("| 40 |")]
    assert [line for line in report if line.startswith("| targets of 10,000 facts | 20 | 11.7 s |")]


def test_bad_clusters_are_named_within_seconds(tmp_path: Path) -> None:
    (tmp_path / "kind.yaml").write_text("kind: mainframe\n")
    (tmp_path / "key.yaml").write_text("kind: ssh\nhosts: [a]\n")
    (tmp_path / "broken.yaml").write_text("kind: [\n")
    (tmp_path / "many.yaml").write_text("kind: ssh\nworkers: many\n")
    (tmp_path / "tls.yaml").write_text("kind: scheduler\naddress: tls://a:1\ntls: {ca: a.pem}\n")
    (tmp_path / "slurm.yaml").write_text("kind: slurm\nworkers: 2\n")
    (tmp_path / "ssh.yaml").write_text("kind: ssh\nsettings: {nothing: 1}\n")
    for text, kind, words in (
        ("tcp://127.0.0.1:1", WorkerError, "No scheduler answers at tcp://127.0.0.1:1"),
        ("mail://someone", UsageError, "not an address"),
        ("local:0", UsageError, "how many workers"),
        ("local:many", UsageError, "how many workers"),
        ("nowhere.yaml", UsageError, "neither a file nor an address"),
        ("kind.yaml", UsageError, "no kind mainframe"),
        ("key.yaml", UsageError, "no key hosts"),
        ("broken.yaml", EditError, "broken.yaml cannot be read"),
        ("many.yaml", UsageError, "workers is many"),
        ("tls.yaml", UsageError, "tls must have"),
        ("slurm.yaml", UsageError, "needs dask-jobqueue"),
        ("ssh.yaml", UsageError, "SSHCluster does not start"),
    ):
        begun = time.monotonic()
        place = str(tmp_path / text) if text.endswith(".yaml") else text
        with pytest.raises(kind, match=words):
            open_cluster(place)
        assert time.monotonic() - begun < 30
    with pytest.raises(UsageError, match="given together"):
        open_executor(2, "local:2")


def test_workers_without_memory_or_gpu_are_named(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    # What an item needs, and a worker before it, is 80 % of a worker's memory at the most.
    with pytest.raises(WorkerError, match=r"1250000\.50 GB.* the largest of 1 may take"):
        list(threads.map(fail, ["well", "well"], memory=10**15))
    assert time.monotonic() - begun < PATIENCE / 4
    monkeypatch.setattr(dask_crew, "pack_job", lambda function, device: b"")
    with pytest.raises(WorkerError, match="says that it has a GPU"):
        list(threads.map(fail, ["well", "well"], torch.device("cuda")))


def test_workers_that_have_paused_are_named(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = threads.map(Noted(tmp_path / "log", 0.05), range(1000))
    assert next(results) == 0

    def pause(dask_worker: distributed.Worker) -> None:
        """Pause a worker, for good: it would go on when it looks at its memory next."""
        dask_worker.memory_manager.memory_pause_fraction = False
        dask_worker.status = distributed.Status.paused

    threads.client.run(pause)
    with pytest.raises(WorkerError, match="All workers have paused for 2 seconds"):
        list(results)


@pytest.mark.parametrize(("gpus", "own"), [([], None), (["3", "5"], "5"), (["3"], "")])
def test_a_worker_of_this_machine_has_one_gpu_or_none(
    gpus: list[str], own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "visible_gpus", lambda: gpus)
    settings = dask_cluster.own_device(1)
    assert settings["env"].get("CUDA_VISIBLE_DEVICES") == own
    assert settings.get("resources") == (None if own is None else {"GPU": len(own)})


def test_a_scheduler_without_workers_or_that_dies_is_named(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dask_cluster, "FIRST", 0.5)
    results = threads.map(Noted(tmp_path / "log", 0.05), range(1000))
    assert next(results) == 0
    threads.cluster.scale(0)
    with pytest.raises(WorkerError, match="All workers have ended"):
        list(results)
    with pytest.raises(WorkerError, match="has no worker"):
        open_cluster(threads.client.scheduler.address)
    threads.cluster.scale(1)
    threads.client.wait_for_workers(1, timeout=PATIENCE)
    results = threads.map(Noted(tmp_path / "log", 0.05), range(1000))
    assert next(results) == 0
    threads.cluster.close()
    with pytest.raises(WorkerError, match=r"The scheduler at .* is gone"):
        list(results)


def test_commands_take_workers(folder: Path, emptied: Callable[[], Path]) -> None:
    emptied()
    wanted = tensor_digest(moment(InProcess()))
    emptied()
    arguments = ("statistics", "tiny.yaml", "--device", "cpu", "--workers", 2)
    assert said(*arguments)["statistics"][0]["digest"] == wanted
    wrong = run("statistics", "tiny.yaml", "--json", "--cluster", "tcp://127.0.0.1:1")
    assert wrong.exit_code == 1
    assert "E910" in wrong.stdout
    assert "Traceback" not in wrong.output
