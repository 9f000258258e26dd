"""The command line as a whole: help, completion, progress, and what the same mistake gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from safetensors.torch import save_file
from typer.core import TyperGroup

import editspec
from editspec.cli import output
from editspec.cli.completion import SHELLS
from editspec.cli.main import SECTIONS, app
from editspec.commands.registry import COMMANDS
from editspec.engine.result import FAILED, WRONG_USE
from tests.cases import tiny_stylegan2
from tests.commands import contents, run, said

WIDTH = 80

LEAK = re.compile(r"\b(int|float|str|bool|range|None|TEXT|INTEGER)\b|<|x>|\{SPEC")
"""Names of types, as typer shows them."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its words, with its options and arguments."""

    def visit(group: TyperGroup, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                yield from visit(command, f"{prefix}{name} ")
            else:
                yield prefix + name, command

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    yield from visit(group, "")


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_help_has_groups_with_one_line_for_a_command() -> None:
    lines = run("--help").stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for section, group in SECTIONS.items():
        start = lines.index(f"{section}:") + 1
        names = [line.split()[0] for line in lines[start : start + len(group)]]
        assert names == list(group)
    assert not [line for line in lines[1:] if line.endswith("...")]
    # In the order of the registry, which a table of commands follows.
    listed = [name for group in SECTIONS.values() for name in group]
    assert listed == [name for name in COMMANDS if " " not in name]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_no_types(name: str) -> None:
    result = run(*name.split(), "-h")
    assert result.exit_code == 0
    text = result.stdout
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "-q, --quiet" in text
    assert "-h, --help" in text
    assert not LEAK.search(text), LEAK.search(text)
    assert LEAK.search("--count <int range>")


def test_everything_that_takes_a_value_says_which() -> None:
    for name, command in commands():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                assert parameter.metavar, (name, parameter.name)


def test_every_command_but_a_server_answers_in_json_and_says_what_it_can_in_short() -> None:
    for name, command in commands():
        names = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in names) == (name != "studio"), name
        first = command.help.split("\n\n")[0]
        assert len(first) <= 61, name


def test_version() -> None:
    assert run("--version").stdout == f"editspec {editspec.__version__}\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_can_read_the_script_that_completes(shell: str, tmp_path: Path) -> None:
    result = run("--completion", shell)
    assert result.exit_code == 0
    assert "_EDITSPEC_COMPLETE" in result.stdout
    if executable := shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(result.stdout)
        subprocess.run([executable, "-n", script], check=True)


def test_another_shell_has_no_script() -> None:
    result = run("--completion", "csh")
    assert (result.exit_code, "bash, zsh, fish" in result.stderr) == (WRONG_USE, True)


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    tool = tmp_path / "editspec"
    tool.write_text(f"#!{sys.executable}\nfrom editspec.cli.main import main\nmain()\n")
    tool.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(run("--completion", "bash").stdout)
    ask = 'source "$1"; COMP_WORDS=(editspec $2); COMP_CWORD=$3; _editspec_completion editspec'
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    def complete(words: str, place: int) -> list[str]:
        command = ["bash", "-c", f'{ask}; printf "%s\\n" "${{COMPREPLY[@]}}"', "-"]
        done = subprocess.run(
            [*command, script, words, str(place)],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert complete("bui", 1) == ["build"]
    assert complete("build --fr", 2) == ["--frozen"]


def test_a_solver_writes_at_most_ten_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PLAIN_SECONDS", 0.0)
    with output.show_progress() as progress:
        for step in range(0, 2001, 10):
            progress("solving", step, 2000)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 10
    assert (lines[0], lines[-1]) == ("solving: 0/2000", "solving: 2000/2000")


def test_quick_work_writes_its_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    with output.show_progress() as progress:
        for _ in range(2):  # a task of the same name begins anew
            for step in range(101):
                progress("solving", step, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["solving: 0/100", "solving: 100/100", "solving: 100/100"]


def test_quiet_writes_no_progress(
    tiny_spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path)
    assert run("build", "spec.yaml", "-o", "out", "-q").stderr == ""
    assert run("build", "gone.yaml", "-o", "out", "--quiet").stderr != ""


def test_render_answers_in_json(
    tiny_spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path)
    assert said("render", "spec.yaml", "-o", "a.png", "--count", "1") == {"out": "a.png"}
    assert Path("a.png").is_file()


MISTAKES = {
    "plan spec.yaml --threads a": "--threads takes a whole number from 1.",
    "plan spec.yaml --threads 0": "--threads takes a whole number from 1.",
    "sample x -o y --count 9999": "--count takes a whole number from 1 to 1024.",
    "apply p --model b --scale q": "--scale takes a number.",
    "bild": "Did you mean build?",
    "build": "SPEC is missing.",
    "build x": "-o/--out is missing.",
    "plan x --nothing": "No such option: --nothing.",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_wrong_command_line_is_an_error_as_all_others(line: str) -> None:
    result = run(*line.split(), "--json")
    assert result.exit_code == WRONG_USE
    error = json.loads(result.stdout)["error"]
    assert MISTAKES[line] in error["message"]
    assert error["code"].startswith("E908")
    assert result.stderr.startswith(f"error: {error['message']}\n  hint: ")


def test_debug_shows_the_traceback_besides_the_error(tmp_path: Path) -> None:
    plain = run("validate", tmp_path / "gone.yaml", "--json")
    debug = run("validate", tmp_path / "gone.yaml", "--json", "--debug")
    assert (debug.exit_code, debug.stdout) == (plain.exit_code, plain.stdout)
    assert debug.stderr.startswith("Traceback")
    assert debug.stderr.endswith(plain.stderr)
    assert "Traceback" not in plain.stderr


SPECS = """
validate SPEC
plan SPEC
build SPEC -o new
check SPEC
lock SPEC
update SPEC
compile SPEC -o new
statistics SPEC
sweep SPEC -o new --layers layer5 --ranks 1
blame SPEC -o new --latent 3
bisect SPEC --measure trace --latent 3 --at-most 0.1
tune SPEC -o new
render SPEC -o new.png
search SPEC
compare-layers SPEC
sample SPEC -o new.png
inspect SPEC
export SPEC --format record -o new.json
ci review SPEC -o new
ci apply SPEC -o new
verify out --model tiny.safetensors --spec SPEC
rebase out --model tiny.safetensors --spec SPEC -o new
compose out --rank 1 --spec SPEC -o new.safetensors
"""

PATCHES = """
verify PATCH --model tiny.safetensors
apply PATCH --model tiny.safetensors -o new.safetensors
audit PATCH --base tiny.safetensors --edited tiny.safetensors
compose PATCH -o new.safetensors
rebase PATCH --model tiny.safetensors --keep-deltas -o new
diff PATCH PATCH
export PATCH --format delta -o new.safetensors
inspect PATCH
"""

WEIGHTS = """
verify out --model WEIGHTS
apply out --model WEIGHTS -o new.safetensors
audit out --base WEIGHTS --edited tiny.safetensors
audit out --base tiny.safetensors --edited WEIGHTS
adopt --base WEIGHTS --edited tiny.safetensors -o new.safetensors
adopt --base tiny.safetensors --edited WEIGHTS -o new.safetensors
rebase out --model WEIGHTS --keep-deltas -o new
diff WEIGHTS WEIGHTS
export out --format full --model WEIGHTS -o new.safetensors
inspect WEIGHTS
convert WEIGHTS new.safetensors
sample WEIGHTS -o new.png
search --model WEIGHTS --latent 1 --layer layer5 --mask {box:[1,1,4,4]}
"""

WRONG = {
    "SPEC": {
        "gone.yaml": WRONG_USE,
        "folder": WRONG_USE,
        "text.yaml": WRONG_USE,
        "no-weights.yaml": WRONG_USE,
        "damaged.yaml": FAILED,
    },
    "PATCH": {"gone.safetensors": WRONG_USE, "damaged.safetensors": FAILED},
    "WEIGHTS": {
        "gone.safetensors": WRONG_USE,
        "builtin:nothing": WRONG_USE,
        "folder": WRONG_USE,
        "damaged.safetensors": FAILED,
    },
}
"""What is wrong in place of a word of the lines, and the exit code that it gives."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is wrong."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "folder").mkdir()
    (folder / "text.yaml").write_text("a: [\n")
    place = {"latent": 1, "mask": {"box": [2, 2, 10, 10]}}
    edit = {"name": "one", "layer": "layer5", "source": place, "target": {**place, "latent": 2}}
    edit["solver"] = {"method": "direct", "steps": 2}
    for name, weights in (("no-weights", "gone"), ("damaged", "damaged"), ("spec", "tiny")):
        model = {"family": "stylegan2", "weights": f"{weights}.safetensors"}
        spec = {"version": 1, "model": model, "statistics": {"samples": 16}, "edits": [edit]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    save_file(tiny_stylegan2(size=16), folder / "tiny.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"\x40" + bytes(7) + b"{")
    editspec.build(folder / "spec.yaml", folder / "out", device="cpu")
    return folder


@pytest.mark.parametrize(
    ("kind", "wrong"), [(kind, wrong) for kind in WRONG for wrong in WRONG[kind]]
)
def test_the_same_mistake_gives_the_same_exit_code_everywhere(
    kind: str, wrong: str, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(broken)
    lines = {"SPEC": SPECS, "PATCH": PATCHES, "WEIGHTS": WEIGHTS}[kind].strip().splitlines()
    before = contents(broken)
    found = {}
    for number, line in enumerate(lines):
        named = line.replace(" new", f" new/{number}")
        words = [wrong if word == kind else word for word in named.split()]
        if words[0] == "sample" and wrong == "folder" and kind == "SPEC":
            continue  # which takes weights, too, and they may be a folder
        result = run(*words)
        found[line] = result.exit_code
        assert result.exception is None or isinstance(result.exception, SystemExit), line
        assert "Traceback" not in result.output
    assert found == dict.fromkeys(found, WRONG[kind][wrong])
    shutil.rmtree("new", ignore_errors=True)  # where ci says what is wrong
    assert contents(broken) == before


def test_every_command_that_takes_a_file_is_walked() -> None:
    walked = {" ".join(line.split()[:2]) for line in f"{SPECS}{PATCHES}{WEIGHTS}".splitlines()}
    first = {words.split(" ")[0] for words in walked}
    elsewhere = {
        "push",  # the folder of a build
        "init",  # weights, as `inspect` names them
        "card",  # the folder of a build; its spec is one as all others
        "studio",  # serves, whatever the spec is: the page shows what is wrong
        "sign",  # the folder of a build
        "import",  # records
        "git install",  # a checkout
        "git merge-lock",  # three locks, which git gives
        "git show-patch",  # whatever lies where git has a patch
        "git diff-patch",
        "schema",
        "families",
        "cache",
        "bench paper",
        "bench concepts",
        "bench facts",
    }
    assert {name for name in COMMANDS if name not in first and name not in walked} == elsewhere
