"""The action, its scripts and the hook, run as a runner would run them, in repositories of git with
Skyline specs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

from editspec_runtime.families.open import read_weights
from editspec_runtime.patches.patch import read_patch
from tests.commands import contents, git, run, said
from tests.own_sigstore import OwnSigstore

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"
WORKFLOW = ROOT / "examples" / "ci" / "edits.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
SCRIPTS = Path(sys.executable).parent

PATIENCE = 1200
"""Seconds after which a step counts as one that hangs."""


def spec_of(**changes: Any) -> dict[str, Any]:
    """Skyline's windows are lit, in a hurry."""
    recipe = yaml.safe_load(
        (ROOT / "tests/recipes/dark_windows_to_lit.yaml")
        .read_text()
        .replace("../../specs/skyline/", "")
    )
    (edit,) = recipe["edits"]
    edit["solver"] = {"method": "least-squares"}
    images = {"images": [{"latents": [200, 202], "mask": "masks/windows.png"}]}
    given = [
        {"measure": "efficacy", "at_least": 0.5},
        {"measure": "collateral", **images, "at_most": 0.1},
    ]
    return {**recipe, "statistics": {"samples": 32}, "checks": given, **changes}


pytestmark = pytest.mark.usefixtures("one_cache")
"""All tests of the file share the statistics of one model."""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a spec, its masks and its lock on main, as a checkout."""
    folder = tmp_path / "work tree"
    (folder / "edits").mkdir(parents=True)
    shutil.copytree(ROOT / "specs/skyline/masks", folder / "edits" / "masks")
    monkeypatch.chdir(folder)
    save(spec_of())
    result = run("lock", "edits/lit.yaml")
    assert result.exit_code == 0, result.stderr
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "A spec")
    return folder


def save(spec: dict[str, Any], name: str = "edits/lit.yaml") -> None:
    text = yaml.safe_dump(spec, sort_keys=False)
    Path(name).write_text(text)


@dataclass
class Ran:
    """What a run of the action left: how it ended, its summary, what it uploaded, and its
    outputs.
    """

    code: int = 0
    summary: str = ""
    uploaded: list[str] = field(default_factory=list)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    log: str = ""


@dataclass
class Runner:
    """The part of GitHub's runner that action.yml needs: inputs, outputs, conditions, bash. Other
    actions do nothing.

    Attributes
    ----------
    program
        The command editspec.
    checkout
        Where the repository lies.
    server
        A folder that stands for github.com.
    gh
        A script that stands for the program gh; by default it may do nothing.
    """

    program: Path
    checkout: Path
    server: Path
    repository: str = "owner/models"
    gh: str = "exit 1"

    def run(self, until: str = "", **inputs: str) -> Ran:
        """Run all steps, or those before the step of a name."""
        action = yaml.safe_load(ACTION.read_text())
        known = {name: given.get("default", "") for name, given in action["inputs"].items()}
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert set(given) <= set(known)
        assert all(name in given for name, one in action["inputs"].items() if one.get("required"))
        known |= given
        ran = Ran()
        for step in action["runs"]["steps"]:
            if step.get("name") == until:
                break
            if "if" in step and not self._holds(step["if"], known):
                continue
            if "uses" in step:
                self._use(step, known, ran)
            elif step["name"] != "Install editspec":
                code = self._bash(step, known, ran)
                if code and not step.get("continue-on-error"):
                    ran.code = code
                    break
        return ran

    def _holds(self, condition: str, inputs: dict[str, str]) -> bool:
        match = re.fullmatch(r"inputs\.([\w-]+) ([!=]=) '(.*)'", condition)
        assert match is not None, condition
        name, how, wanted = match.groups()
        return (inputs[name] == wanted) == (how == "==")

    def _filled(self, text: str, inputs: dict[str, str], ran: Ran) -> str:
        def value(found: re.Match[str]) -> str:
            where, *path = found[1].split(".")
            if where == "inputs":
                return self._filled(inputs[path[0]], inputs, ran)
            if where == "steps":
                return ran.outputs.get(path[0], {}).get(path[2], "")
            assert (where, path) == ("github", ["token"])
            return "secret"

        return re.sub(r"\$\{\{ ([^}]+) \}\}", value, text)

    def _use(self, step: dict[str, Any], inputs: dict[str, str], ran: Ran) -> None:
        name, _, pin = step["uses"].partition("@")
        assert re.fullmatch("[0-9a-f]{40}", pin)
        if name == "actions/upload-artifact":
            folder = self.checkout / self._filled(step["with"]["path"], inputs, ran)
            ran.uploaded = sorted(
                str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()
            )
            ran.outputs[step["id"]] = (
                {"artifact-url": "https://example.org/artifact"} if ran.uploaded else {}
            )
        else:
            assert name == "actions/setup-python"

    def _bash(self, step: dict[str, Any], inputs: dict[str, str], ran: Ran) -> int:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]
        runner = self.server.parent / "runner"
        (runner / "bin").mkdir(parents=True, exist_ok=True)
        (runner / "bin" / "editspec").unlink(missing_ok=True)
        (runner / "bin" / "editspec").symlink_to(self.program)
        gh = runner / "bin" / "gh"
        gh.write_text(f"#!/bin/bash\n{self.gh}\n")
        gh.chmod(0o755)
        for name in ("output", "summary"):
            (runner / name).write_text("")
        environment = {
            **os.environ,
            "PATH": f"{runner / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(runner / "output"),
            "GITHUB_STEP_SUMMARY": str(runner / "summary"),
            "GITHUB_SERVER_URL": f"file://{self.server}",
            "GITHUB_REPOSITORY": self.repository,
            "GITHUB_SHA": git(self.checkout, "rev-parse", "HEAD"),
            "GITHUB_WORKFLOW": "edits",
            "GITHUB_RUN_ID": "7",
        }
        environment |= {
            name: self._filled(text, inputs, ran) for name, text in step.get("env", {}).items()
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        ran.log += done.stdout + done.stderr
        ran.summary += (runner / "summary").read_text()
        lines = (runner / "output").read_text().splitlines()
        ran.outputs.setdefault(step.get("id", ""), {}).update(line.split("=", 1) for line in lines)
        return done.returncode


@pytest.fixture
def runner(program: Path, repository: Path, tmp_path: Path) -> Runner:
    server = tmp_path / "server"
    (server / "owner" / "models").mkdir(parents=True)
    git(server / "owner" / "models", "init", "-q", "--bare")
    return Runner(program, repository, server)


@pytest.mark.slow
def test_a_review_shows_plan_checks_and_pictures(runner: Runner) -> None:
    spec = spec_of()
    spec["edits"][0]["rank"] = 3
    save(spec)
    save(spec_of(), "edits/second.yaml")
    base = git(runner.checkout, "rev-parse", "HEAD")
    ran = runner.run(specs="edits/*.yaml\n", base=base, pictures_branch="pictures")
    assert ran.code == 0, ran.log
    for part in (
        "## `edits/lit.yaml`: passed",
        "## `edits/second.yaml`: passed",
        f"### Since `{base[:12]}`",
        "    dark-windows-to-lit: rank: 2 -> 3",
        "It has no lock of this spec: everything is new.",
        "`edits/lit.yaml.lock` is out of date",
        "There is no `edits/second.yaml.lock`",
        "    ~ dark-windows-to-lit: changed, layer7",
        "| passed | efficacy | dark-windows-to-lit |",
        "[All files of this run](https://example.org/artifact)",
    ):
        assert part in ran.summary, ran.summary
    for name in (
        "checks.md",
        "junit.xml",
        "before-after.png",
        "lit.yaml.lock",
        "build/manifest.json",
    ):
        assert f"edits/lit.yaml/{name}" in ran.uploaded
    # The pictures lie where the summary says, in a commit that will not go away.
    remote = runner.server / "owner" / "models"
    shown = re.findall(r"^!\[.*\]\((.*)\)$", ran.summary, re.MULTILINE)
    assert len(shown) == 2
    for address in shown:
        match = re.fullmatch(rf"file://{remote}/raw/([0-9a-f]{{40}})/(.*)", address)
        assert match is not None, address
        commit, path = match.groups()
        found = subprocess.run(
            ["git", "show", f"{commit}:{unquote(path)}"],
            cwd=remote,
            capture_output=True,
            check=True,
        )
        picture = runner.checkout / "editspec-out" / unquote(path)
        assert found.stdout == picture.read_bytes()
        with Image.open(picture) as image:
            assert image.width > 500
    first = git(remote, "rev-parse", "pictures")
    assert runner.run(specs="edits/lit.yaml", pictures_branch="pictures").code == 0
    assert first in git(remote, "log", "--format=%H", "pictures").split()
    assert git(remote, "rev-parse", "pictures") != first


@pytest.mark.slow
def test_a_review_that_fails_says_so_in_its_summary(runner: Runner) -> None:
    spec = spec_of(checks=[{"measure": "efficacy", "at_least": 1}])
    save(spec)
    git(runner.checkout, "commit", "-qam", "Too much is asked")
    ran = runner.run(specs="edits/lit.yaml")
    assert ran.code == 1
    assert "## `edits/lit.yaml`: failed" in ran.summary
    assert "| **failed** | efficacy |" in ran.summary
    assert "`edits/lit.yaml/before-after.png` in the artifact" in ran.summary
    assert "edits/lit.yaml/before-after.png" in ran.uploaded
    # A check of severity warn is said, and passes.
    save(spec_of(checks=[{"measure": "efficacy", "at_least": 1, "severity": "warn"}]))
    ran = runner.run(specs="edits/lit.yaml")
    assert ran.code == 0
    assert "| **warned** | efficacy |" in ran.summary


def test_a_build_that_fails_leaves_the_plan(runner: Runner) -> None:
    spec = spec_of()
    spec["edits"][0]["solver"] = {"method": "direct", "steps": 1, "learning_rate": 1e6}
    save(spec)
    ran = runner.run(specs="edits/lit.yaml")
    assert ran.code == 1
    assert "    ~ dark-windows-to-lit: changed, layer7" in ran.summary
    assert "the edit would change nothing" in ran.summary


def test_a_spec_that_is_wrong_hides_no_other(runner: Runner) -> None:
    save(spec_of(statistics={"samples": 0}), "edits/bad.yaml")
    ran = runner.run(
        specs="edits/bad.yaml", pictures_branch="pictures"
    )  # there are no pictures, and that is fine
    assert (ran.code, "could not be pushed" in ran.log) == (2, False)
    ran = runner.run(specs="edits/*.yaml")
    assert ran.code == 2
    assert "## `edits/bad.yaml`: wrong" in ran.summary
    assert "    edits/bad.yaml:" in ran.summary
    assert "statistics.samples: must be at least 1, found 0" in ran.summary
    assert "## `edits/lit.yaml`: passed" in ran.summary


def test_pictures_that_cannot_be_pushed_fail_nothing(runner: Runner) -> None:
    runner.repository = "owner/nothing"
    ran = runner.run(specs="edits/lit.yaml", pictures_branch="pictures")
    assert ran.code == 0
    assert "the pictures could not be pushed to pictures" in ran.log
    assert "`edits/lit.yaml/before-after.png` in the artifact" in ran.summary


def test_what_is_not_there_is_named(runner: Runner) -> None:
    ran = runner.run(specs="edits/*.yaml\nedits/*.json")
    assert ran.code == 2
    assert "no spec matches edits/*.json" in ran.log
    ran = runner.run(specs="edits/lit.yaml", base="no-such-revision")
    assert ran.code == 2
    assert "git knows no revision no-such-revision" in ran.log
    assert (ran.summary, ran.uploaded) == ("", [])


def test_what_was_merged_is_applied(runner: Runner) -> None:
    save(spec_of(checks=[{"measure": "efficacy", "at_least": 1}]), "edits/too much.yaml")
    ran = runner.run(specs="edits/*.yaml", command="apply")
    assert ran.code == 1
    assert "## `edits/lit.yaml`: passed" in ran.summary
    assert "## `edits/too much.yaml`: failed" in ran.summary
    assert "Not applied." in ran.summary
    out = runner.checkout / "editspec-out" / "edits"
    patch = read_patch(
        out / "lit.yaml" / "build" / "patches" / "01-dark-windows-to-lit.safetensors"
    )
    assert (
        read_weights(out / "lit.yaml" / "edited.safetensors").digest() == patch.metadata["result"]
    )
    assert patch.metadata["result"] in ran.summary
    assert not (out / "too much.yaml" / "edited.safetensors").exists()


def test_what_is_applied_is_signed_by_the_workflow(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sigstore = OwnSigstore()
    workflow = "https://example.org/owner/models/.github/workflows/edits.yml@refs/heads/main"
    sigstore.identity = workflow
    trust = sigstore.trust_config(tmp_path / "trust.json")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of this job")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.address}/job")
    save(spec_of(checks=[{"measure": "efficacy", "at_least": 1}]), "edits/too much.yaml")
    ran = runner.run(specs="edits/*.yaml", command="apply", sign="true", trust_config=str(trust))
    assert (ran.code, f"signed by {workflow}" in ran.log) == (1, True), ran.log
    assert "edits/lit.yaml/build/model.sig" in ran.uploaded
    assert "edits/too much.yaml/build/model.sig" not in ran.uploaded
    build = runner.checkout / "editspec-out" / "edits" / "lit.yaml" / "build"
    asked = ("--model", "builtin:skyline", "--trust-config", trust, "--issuer", sigstore.issuer)
    asked += ("--identity",)
    assert run("verify", build, *asked, workflow).exit_code == 0
    assert run("verify", build, *asked, workflow.replace("main", "change")).exit_code == 1
    # Who may not have a token is told which permission the job lacks, and the job fails.
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    ran = runner.run(specs="edits/lit.yaml", command="apply", sign="true", trust_config=str(trust))
    assert (ran.code, "id-token: write" in ran.log) == (1, True), ran.log
    assert "edits/lit.yaml/edited.safetensors" in ran.uploaded
    ran = runner.run(specs="edits/lit.yaml", sign="true")
    assert (ran.code, "only what is applied is signed" in ran.log) == (2, True), ran.log
    sigstore.shutdown()
    sigstore.server_close()


def test_the_commands_alone(repository: Path) -> None:
    def ended(*arguments: str) -> tuple[int, Any]:
        result = run("ci", *arguments, "--json")
        return result.exit_code, json.loads(result.stdout)

    code, found = ended("review", "edits/lit.yaml", "-o", "out")
    assert (code, found["status"], found["specs"][0]["plan"]["edits"][0]["status"]) == (
        0,
        "passed",
        "up to date",
    )
    code, found = ended("apply", "edits/lit.yaml", "-o", "out")
    assert (code, found["specs"][0]["digest"]) == (
        0,
        read_weights(Path("out/edits/lit.yaml/edited.safetensors")).digest(),
    )
    assert ended("review", str(repository / "edits/lit.yaml"), "-o", "out")[0] == 2
    assert ended("review", "../edits/lit.yaml", "-o", "out")[0] == 2
    Path("mine").mkdir()
    Path("mine/notes").write_text("mine")
    code, found = ended("review", "edits/lit.yaml", "-o", "mine")
    assert (code, "is in the way" in found["error"]["message"]) == (1, True)
    assert [path.name for path in Path("mine").iterdir()] == ["notes"]


def test_a_review_changes_nothing_outside_of_its_folder(repository: Path) -> None:
    spec = spec_of()
    spec["edits"][0]["rank"] = 3
    save(spec)
    before = contents(Path("edits"))
    for out in ("first", "second"):
        found = said("ci", "review", "edits/lit.yaml", "-o", out)
        assert found["specs"][0]["plan"]["edits"][0]["status"] == "changed"
        assert "`edits/lit.yaml.lock` is out of date" in Path(out, "summary.md").read_text()
        assert contents(Path("edits")) == before
    # The new lock lies in the output alone, and is of what was built.
    written = Path("first/edits/lit.yaml/lit.yaml.lock").read_bytes()
    assert written != before["lit.yaml.lock"]
    # Negative control: with that lock in place, the summary has nothing to say about it.
    Path("edits/lit.yaml.lock").write_bytes(written)
    said("ci", "review", "edits/lit.yaml", "-o", "third")
    assert "out of date" not in Path("third/summary.md").read_text()


def test_a_review_works_in_a_checkout_that_cannot_be_written(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of()
    spec["edits"][0]["rank"] = 3
    save(spec)
    real = os.access

    def access(path: Any, mode: int, **more: Any) -> bool:
        """The tests may run as root, whom no mode of a folder keeps out."""
        refused = str(path) == "edits" and mode & os.W_OK
        return not refused and real(path, mode, **more)

    folder = Path("edits")
    folder.chmod(0o555)
    monkeypatch.setattr(os, "access", access)
    try:
        done = run("ci", "review", "edits/lit.yaml", "-o", tmp_path / "out")
    finally:
        folder.chmod(0o755)
    assert done.exit_code == 0, done.stderr


def test_what_was_reviewed_is_applied(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviewed = said("ci", "review", "edits/lit.yaml", "-o", "review")
    assert "built" not in reviewed["specs"][0]
    name = "01-dark-windows-to-lit.safetensors"
    patch = Path("review/edits/lit.yaml/build/patches", name)
    artifact = Path(shutil.copytree("review", tmp_path / "artifact"))
    cache = Path(os.environ["EDITSPEC_CACHE"])
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "empty"))
    shutil.copytree(cache / "statistics", tmp_path / "empty" / "statistics")
    build = artifact / "edits/lit.yaml/build"
    for number, place in enumerate((artifact, build)):
        out = f"merged-{number}"
        (found,) = said("ci", "apply", "edits/lit.yaml", "-o", out, "--reviewed", place)["specs"]
        assert (found["reviewed"], found["built"]) == (["dark-windows-to-lit"], [])
        applied = Path(out, "edits/lit.yaml/build/patches", name)
        assert applied.read_bytes() == patch.read_bytes()
        summary = Path(out, "summary.md").read_text()
        assert "As reviewed" in summary
        assert "Built now" not in summary
    # Negative controls: no artifact, and one whose patch is another, are built and said.
    changed = bytearray(patch.read_bytes())
    changed[-1] ^= 1
    (build / "patches" / name).write_bytes(changed)
    for number, options in enumerate(([], ["--reviewed", artifact])):
        monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / f"none-{number}"))
        out = f"built-{number}"
        (found,) = said("ci", "apply", "edits/lit.yaml", "-o", out, *options)["specs"]
        assert (found["reviewed"], found["built"]) == ([], ["dark-windows-to-lit"])
        summary = Path(out, "summary.md").read_text()
        assert "Built now" in summary
        assert "`dark-windows-to-lit` (missing)" in summary
    assert run("ci", "apply", "edits/lit.yaml", "-o", "x", "--reviewed", "nowhere").exit_code == 2


GH = """
case "$1 $2" in
"api repos/owner/models/commits/$GITHUB_SHA/pulls") [[ $GITHUB_SHA != {merge} ]] || echo {head} ;;
"run list") [[ " $* " != *" --commit={head} "* ]] || echo 41 ;;
"run download")
    [[ "$3" == 41 && " $* " == *" --name=editspec "* ]] || exit 1
    cp -r {artifact}/. "${{!#/--dir=/}}" ;;
esac
"""
"""The part of gh that the action needs, of one pull request with one review."""


@pytest.mark.slow
def test_the_action_applies_what_its_review_built(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A review in one checkout, a merge, and `apply` in another with nothing in its cache."""
    origin, main = runner.checkout, git(runner.checkout, "branch", "--show-current")
    git(origin, "checkout", "-qb", "change")
    spec = spec_of()
    spec["edits"][0]["rank"] = 3
    save(spec)
    assert run("lock", "edits/lit.yaml").exit_code == 0
    git(origin, "commit", "-qam", "Three directions")
    head = git(origin, "rev-parse", "HEAD")
    assert runner.run(specs="edits/lit.yaml", base=main).code == 0
    name = "edits/lit.yaml/build/patches/01-dark-windows-to-lit.safetensors"
    artifact = Path(shutil.copytree(origin / "editspec-out", tmp_path / "artifact"))
    git(origin, "checkout", "-q", main)
    git(origin, "merge", "-q", "--no-ff", "-m", "Merge", "change")
    other = tmp_path / "other checkout"
    git(tmp_path, "clone", "-q", str(origin), str(other))
    merge = git(other, "rev-parse", "HEAD")
    applied = Runner(runner.program, other, runner.server)
    applied.gh = GH.format(merge=merge, head=head, artifact=artifact)
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "empty"))
    ran = applied.run(specs="edits/lit.yaml", command="apply")
    assert ran.code == 0, ran.log
    assert "As reviewed, the patches that the lock names: `dark-windows-to-lit`" in ran.summary
    assert "Built now" not in ran.summary
    assert (other / "editspec-out" / name).read_bytes() == (artifact / name).read_bytes()
    # A folder that the workflow has fetched itself.
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "empty-again"))
    applied.gh = "exit 1"
    shutil.rmtree(other / "editspec-out")
    ran = applied.run(specs="edits/lit.yaml", command="apply", reviewed=str(artifact))
    assert "As reviewed" in ran.summary, ran.log
    # Negative controls: no review is found, for one reason after the other.
    monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / "empty-once-more"))
    shutil.rmtree(other / "editspec-out")
    for number, (gh, reason) in enumerate(
        [
            ("exit 1", "`pull-requests: read`"),
            (GH.format(merge=merge, head="x", artifact=artifact), "the merge of no pull request"),
            ("[[ $1 != run ]] || exit 1; echo " + head, "`actions: read`"),
            ("[[ $1 == run ]] || echo " + head, "no review of the pull request has passed"),
            (GH.format(merge=merge, head=head, artifact="/none"), "cannot be fetched"),
        ]
    ):
        applied.gh = gh
        # What is not there is built: once is enough to see it.
        until = "" if number == 0 else "Work"
        ran = applied.run(until, specs="edits/lit.yaml", command="apply")
        assert ran.code == 0, ran.log
        assert "what was reviewed is not there: " in ran.log
        assert reason in ran.log
        assert ("Built now" in ran.summary) == (number == 0)


def test_another_command_than_review_and_apply_is_refused(runner: Runner) -> None:
    ran = runner.run(specs="edits/lit.yaml", command="--help")
    assert (ran.code, "the command is review or apply" in ran.log) == (2, True)


def test_a_summary_that_is_too_long_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "summary.md").write_text("a line\n" * 300_000)
    environment = {
        **os.environ,
        "OUT": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "shown"),
    }
    subprocess.run([ROOT / ".ci" / "job-summary"], env=environment, check=True)
    assert (tmp_path / "shown").read_bytes() == (tmp_path / "summary.md").read_bytes()[:1_000_000]


LINTERS = {
    "check-jsonschema, action": [
        "check-jsonschema",
        "--builtin-schema",
        "vendor.github-actions",
        ACTION,
    ],
    "check-jsonschema, workflow": [
        "check-jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        WORKFLOW,
    ],
    "zizmor, action": ["zizmor", "--offline", "--no-progress", "--pedantic", ACTION],
    "zizmor, workflow": ["zizmor", "--offline", "--no-progress", "--pedantic", WORKFLOW],
    "pre-commit": ["pre-commit", "validate-manifest", HOOKS],
}

BREAKS = {
    "check-jsonschema, action": ("using: composite", "using: bash"),
    "check-jsonschema, workflow": ("runs-on: ubuntu-latest", "runs-at: ubuntu-latest"),
    "zizmor, action": ('run: exit "${SIGN:-$CODE}"', "run: exit ${{ inputs.base }}"),
    "zizmor, workflow": ("pull_request:\n", "pull_request_target:\n"),
    "pre-commit": ("entry: editspec validate\n", ""),
}


@pytest.mark.parametrize("name", LINTERS)
def test_real_linters_find_nothing_and_would_find_something(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "pre-commit"))
    *command, file = LINTERS[name]
    folder = tmp_path / ".github" / "workflows" if file is WORKFLOW else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    text = Path(file).read_text()
    assert BREAKS[name][0] in text
    codes = []
    for content in (text, text.replace(*BREAKS[name])):
        place = folder / Path(file).name
        place.write_text(content)
        executable = [
            str(SCRIPTS / str(command[0])),
            *(str(part) for part in command[1:]),
            str(place),
        ]
        codes.append(
            subprocess.run(executable, capture_output=True, text=True, check=False).returncode
        )
    assert codes[0] == 0
    assert codes[1] != 0


def test_the_hook_runs_on_specs_and_locks_alone(
    program: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pre-commit itself, with the hook's own pattern and arguments; editspec is the one here, not
    an installed one.
    """
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "pre-commit"))
    (hook,) = yaml.safe_load(HOOKS.read_text())
    assert hook["entry"].split() == ["editspec", "validate"]
    local = {
        **hook,
        "language": "system",
        "entry": f"'{program}' validate",
        "verbose": True,
    }
    Path(".pre-commit-config.yaml").write_text(
        yaml.safe_dump({"repos": [{"repo": "local", "hooks": [local]}]})
    )
    Path("other.yaml").write_text("this: is no spec\n")
    save(spec_of(), "edits/second.yaml")

    def commit() -> subprocess.CompletedProcess[str]:
        git(repository, "add", "-A")
        command = [str(SCRIPTS / "pre-commit"), "run", "--all-files"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = commit()
    assert done.returncode == 0, done.stdout
    for line in (
        "edits/lit.yaml: 1 edit, 2 checks, no problems",
        "edits/lit.yaml.lock: the lock of 1 edit, no problems",
        "edits/second.yaml: 1 edit, 2 checks, no problems",
    ):
        assert line in done.stdout
    assert "other.yaml" not in done.stdout
    save(spec_of(statistics={"samples": 0}))
    save(spec_of(precision="float16"), "edits/second.yaml")
    done = commit()
    assert done.returncode == 1
    assert "edits/lit.yaml:" in done.stdout
    assert "edits/second.yaml:" in done.stdout
