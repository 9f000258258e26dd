"""The same bytes whatever the number of processes, whoever is killed or joins."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import distributed
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import editspec
from benchmarks.many_machines import kill_worker
from editspec.engine.resources import use_executor
from editspec_compiler import SpecError
from editspec_compiler.problems import Problem
from editspec_runtime.core.executor import Executor, InProcess
from editspec_runtime.errors import (
    NumericalError,
    OutOfMemory,
    WorkerError,
)
from editspec_runtime.executors.dask_cluster import DaskCluster
from editspec_runtime.executors.local import LocalProcesses
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import tensor_digest
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import run, said
from tests.spreading import LONG, PATIENCE, blocks, moment, spec, two_of, write_specs
from tests.workers import Noted, fail

pytestmark = [
    # The engine's own threads close their sockets when they end, which may be after a test.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of C of the long spec, computed by one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_specs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDITSPEC_CACHE", str(folder / "cache"))
        return tensor_digest(moment(InProcess(), "long.yaml"))


def kill_at_moments(
    cache: Path, kill: Callable[[], bool], number: int, stopped: Event
) -> list[int]:
    """Kill at random moments, each when so many blocks are kept; return these numbers."""
    # In the first half: where blocks take less time than a process takes to start, the last ones
    # find nobody to kill for a while, and come later.
    moments = sorted(random.Random(19).sample(range(1, LONG // 2), number))
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


@pytest.mark.slow
def test_c_is_the_same_where_workers_are_killed(
    folder: Path, emptied: Callable[[], Path], processes: LocalProcesses, undisturbed: str
) -> None:
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

    assert tensor_digest(moment_with_deaths(processes, cache, kill)) == undisturbed
    assert len(killed) == 10
    processes.end()


@pytest.mark.slow
def test_c_is_the_same_in_a_cluster_whose_workers_die_and_join(
    folder: Path, emptied: Callable[[], Path], threads: DaskCluster, undisturbed: str
) -> None:
    for count in (1, 2, 4):
        threads.cluster.scale(count)
        threads.client.wait_for_workers(count, timeout=PATIENCE)
        cache = emptied()
        if count < 4:
            assert tensor_digest(moment(threads, "long.yaml")) == undisturbed

    def kill() -> bool:
        """End a worker with the items that it has; another one joins."""
        kill_worker(threads)
        threads.cluster.scale(4)
        return True

    assert tensor_digest(moment_with_deaths(threads, cache, kill)) == undisturbed


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


@pytest.mark.slow
def test_a_command_that_was_killed_goes_on(
    folder: Path, emptied: Callable[[], Path], undisturbed: str
) -> None:
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
    assert tensor_digest(moment(InProcess(), "long.yaml")) != undisturbed
    (found,) = (cache / "statistics").iterdir()
    found.unlink()
    for block in kept:
        assert not block.exists()


def test_a_run_whose_scheduler_has_died_goes_on(
    folder: Path, emptied: Callable[[], Path], threads: DaskCluster, undisturbed: str
) -> None:
    cache = emptied()

    def end(what: str, done: int, total: int) -> None:
        """End the scheduler after some blocks."""
        if done == 256 * 5:
            threads.cluster.close()

    with use_executor(threads), pytest.raises(WorkerError, match=r"The scheduler at .* is gone"):
        editspec.statistics("long.yaml", device="cpu", progress=end)
    kept = blocks(cache)
    assert 5 <= len(kept) < LONG
    assert tensor_digest(moment(InProcess(), "long.yaml")) == undisturbed


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
