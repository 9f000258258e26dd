"""What a team shares: the folder that `init` begins, and the file that commands obey."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec.engine.project import FILE
from tests.commands import contents, git, run, said

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_cache: None,
) -> Path:
    """A folder with the weights of a tiny model."""
    place = tmp_path / "a team"
    (place / "weights").mkdir(parents=True)
    save_file(make_tiny(size=16), place / "weights" / "tiny.safetensors")
    monkeypatch.chdir(place)
    return place


def begin() -> None:
    """Begin the folder, with a sample that is quickly drawn."""
    said("init", "--model", "weights/tiny.safetensors")
    spec = Path("recipes/first.yaml")
    spec.write_text(spec.read_text() + "statistics: {samples: 16}\n")


def change(**fields: object) -> None:
    """Change the spec."""
    path = Path("recipes/first.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


def test_a_folder_begins_with_a_spec_that_validates_and_builds(folder: Path) -> None:
    begin()
    assert sorted(contents(folder)) == sorted(
        [
            ".editspec.toml",
            ".gitattributes",
            ".github/workflows/edits.yml",
            ".gitignore",
            ".pre-commit-config.yaml",
            "recipes/first.yaml",
            "recipes/masks/.gitkeep",
            "weights/tiny.safetensors",
        ]
    )
    spec = yaml.safe_load(Path("recipes/first.yaml").read_text())
    assert spec["model"]["digest"] == said("inspect", "weights/tiny.safetensors")["digest"]
    assert spec["model"]["weights"] == "../weights/tiny.safetensors"
    assert isinstance(spec["edits"][0]["source"]["latent"], int)
    assert "&" not in Path("recipes/first.yaml").read_text()
    assert said("validate", "recipes/first.yaml")["checks"] == [
        "finite",
        "predicted-collateral",
        "policy",
    ]
    told = run("validate", "recipes/first.yaml").stdout
    assert "1 edit, 3 checks with that of .editspec.toml, no problems" in told
    Path(FILE).rename("none.toml")
    told = run("validate", "recipes/first.yaml").stdout
    assert "1 edit, 2 checks, no problems" in told
    Path("none.toml").rename(FILE)
    built = run("build", "recipes/first.yaml", "-o", "out", "--check", "--device", "cpu")
    assert built.exit_code in (0, 1), built.stderr
    assert "first-edit" in built.stdout
    example = (ROOT / "examples/ci/edits.yml").read_text()
    assert Path(".github/workflows/edits.yml").read_text() == example
    # What a build leaves is ignored, and what belongs to a team is not.
    ignored = Path(".gitignore").read_text().split()
    assert {"/out/", "/weights/"} <= set(ignored)
    assert not [line for line in ignored if line.startswith("/recipes")]


def test_a_folder_that_is_there_keeps_its_files(folder: Path) -> None:
    begin()
    before = contents(folder)
    result = said("init", "--model", "weights/tiny.safetensors")
    assert (result["written"], len(result["kept"])) == ([], 7)
    assert contents(folder) == before
    other = said("init", "other/place", "--model", "weights/tiny.safetensors")
    assert len(other["written"]) == 7
    weights = yaml.safe_load(Path("other/place/recipes/first.yaml").read_text())["model"]["weights"]
    assert weights == "../../../weights/tiny.safetensors"
    assert said("validate", "other/place/recipes/first.yaml")["valid"]


def test_weights_that_are_not_there_begin_nothing(folder: Path) -> None:
    result = run("init", "new", "--model", "gone.safetensors")
    assert (result.exit_code, "does not exist" in result.stderr) == (2, True)
    assert not Path("new").exists()


COMMANDS = ["validate SPEC", "plan SPEC", "check SPEC", "ci review SPEC -o r", "ci apply SPEC -o a"]
"""The commands that obey a policy."""

BROKEN = {
    'weights = ["builtin:*"]': "the project does not allow ../weights/tiny.safetensors",
    'weights = ["../weights/town*"]': "the project does not allow",
    'required_checks = ["efficacy"]': "the project asks for a check of efficacy",
}


@pytest.mark.parametrize("policy", BROKEN)
def test_a_policy_is_obeyed_by_all_that_judge(policy: str) -> None:
    begin()
    Path(FILE).write_text(f"[policy]\n{policy}\n")
    for command in COMMANDS:
        words = ["recipes/first.yaml" if word == "SPEC" else word for word in command.split()]
        result = run(*words)
        assert result.exit_code == 2, (command, result.stderr)
        assert BROKEN[policy] in result.output
        assert FILE in result.output
    error = json.loads(run("validate", "recipes/first.yaml", "--json").stdout)["error"]
    assert error["specs" if "specs" in error else "problems"]
    # Negative controls: who only tries something is free, and so is a spec elsewhere.
    assert run("compile", "recipes/first.yaml", "-o", "rules").exit_code == 0
    Path("recipes", FILE).write_text("")
    assert run("validate", "recipes/first.yaml").exit_code == 0


@pytest.mark.parametrize(
    "policy",
    [
        'weights = ["../weights/*"]',
        'weights = ["builtin:*", "../weights/tiny.safetensors"]',
        'required_checks = ["finite", "predicted-collateral"]',
        "largest_collateral = 0.5",
        "",
    ],
)
def test_a_policy_that_is_kept_says_nothing(policy: str) -> None:
    begin()
    Path(FILE).write_text(f"[policy]\n{policy}\n")
    assert said("validate", "recipes/first.yaml")["valid"]


def test_a_check_that_only_warns_is_not_the_one_that_is_asked_for() -> None:
    begin()
    change(checks=[{"measure": "finite", "severity": "warn"}])
    result = run("validate", "recipes/first.yaml")
    assert (result.exit_code, "of severity error" in result.stderr) == (2, True)


def test_the_largest_collateral_is_measured_of_every_edit() -> None:
    begin()
    change(checks=[])
    for limit, code in ((1e-12, 1), (1e6, 0)):
        Path(FILE).write_text(f"[policy]\nlargest_collateral = {limit}\n")
        rows = said("check", "recipes/first.yaml", code=code)["checks"]
        assert [(row["name"], row["measure"]) for row in rows] == [
            ("policy", "predicted-collateral")
        ]
        review = said("ci", "review", "recipes/first.yaml", "-o", "review", code=code)
        assert review["specs"][0]["checks"][0]["name"] == "policy"
        built = run("build", "recipes/first.yaml", "-o", "out", "--check")
        assert built.exit_code == code, built.stderr


def test_cache_and_threads_are_those_of_the_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin()
    Path(FILE).write_text('cache = ".cache/kept"\nthreads = 3\n')
    shared = run("cache", "--json").stdout
    monkeypatch.delenv("EDITSPEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    assert ".cache/kept" not in shared  # the environment comes first
    assert said("cache")["folder"] == str(folder / ".cache" / "kept")
    assert run("statistics", "recipes/first.yaml").exit_code == 0
    assert torch.get_num_threads() == 3
    assert (folder / ".cache" / "kept").is_dir()
    assert run("statistics", "recipes/first.yaml", "--threads", "2").exit_code == 0
    assert torch.get_num_threads() == 2
    monkeypatch.chdir(folder / "recipes")  # a folder below is of the project, too
    assert said("cache")["folder"] == str(folder / ".cache" / "kept")


def test_a_checkout_cannot_fill_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin()
    monkeypatch.delenv("EDITSPEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    Path(FILE).write_text('cache = ".cache"\n')

    def refusal() -> str:
        result = run("cache", "--json")
        assert result.exit_code == 2, result.output
        return str(json.loads(result.stdout)["error"]["message"])

    Path(".cache").mkdir()
    Path(".cache/forged").write_text("x")
    assert "this machine did not make it" in refusal()
    Path(".cache/forged").unlink()
    assert said("cache")["folder"] == str(folder / ".cache")
    Path(".cache/own").write_text("x")
    assert said("cache")["folder"] == str(folder / ".cache")  # as this machine has made it
    git(folder, "init", "-q")
    assert said("cache")["folder"] == str(folder / ".cache")
    git(folder, "add", "-f", ".cache/own")
    assert "holds files that git tracks" in refusal()
    git(folder, "rm", "-q", "-f", ".cache/own")

    Path("inside").symlink_to("/tmp")
    Path(FILE).write_text('cache = "inside/cache"\n')
    assert "leaves the project" in refusal()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads = 0", "threads must be a whole number from 1"),
        ("threads = true", "threads must be"),
        ('cache = "/tmp/x"', "cache must be a path within the folder of the project"),
        ('cache = "../x"', "cache must be a path within"),
        ("cash = 1", "cash is unknown"),
        ("[policy]\nlargest_collateral = -1", "policy.largest_collateral must be a number from 0"),
        ("[policy]\nweights = 'a'", "policy.weights must be a list of digests and patterns"),
        ("[policy]\nrequired = []", "policy.required is unknown"),
        ("policy = 3", "policy is a table"),
        ("threads = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_an_error_in_words(text: str, message: str) -> None:
    begin()
    Path(FILE).write_text(text + "\n")
    result = run("validate", "recipes/first.yaml", "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, message in error["message"]) == (2, True), error
    assert error["code"].startswith("E605")
    assert error["hint"]


def test_a_language_model_gets_a_fact(folder: Path) -> None:
    golden = ROOT / "tests" / "golden" / "transformer"
    shutil.copytree(golden / "models" / "llama", "weights/llama")
    shutil.copy(golden / "tokenizer.json", "weights/llama")
    result = said("init", "texts", "--model", "weights/llama")
    edit = yaml.safe_load(Path(result["spec"]).read_text())["edits"][0]
    assert set(edit) == {"name", "layer", "target", "source"}
    assert said("validate", result["spec"])["valid"]


def test_a_model_that_draws_prompts_gets_a_concept(folder: Path) -> None:
    pipeline = ROOT / "tests" / "golden" / "diffusion" / "pipeline"
    shutil.copytree(pipeline, "weights/pipeline")
    result = said("init", "prompts", "--model", "weights/pipeline")
    edit = yaml.safe_load(Path(result["spec"]).read_text())["edits"][0]
    assert set(edit) == {"name", "source", "target", "preserve"}
    assert said("validate", result["spec"])["valid"]
