"""What commands say is words: no Python values stand in the text of any of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from editspec.cli.main import COMMANDS
from tests.commands import run

REPR = re.compile(
    r"\bNone\b|\bTrue\b|\bFalse\b|\['|\{'|\('|dtype\(|dtype=|Path\(|tensor\(|<class|<function|OrderedDict"
    r"|array\(|torch\.float|mappingproxy|object at 0x|no (device|family) '|\bnan\b"
)
"""What Python shows of values, and nobody writes."""

LINES = """
validate spec.yaml
validate spec.yaml bare.yaml broken.yaml
plan spec.yaml
statistics spec.yaml
compile spec.yaml -o rules
build spec.yaml -o out --check
build spec.yaml -o out --frozen --report
plan spec.yaml -o out
check spec.yaml -o out
check failing.yaml -o out
lock spec.yaml
lock spec.yaml --check
update spec.yaml
update spec.yaml edit-9
inspect spec.yaml
inspect bare.yaml
inspect spec.yaml.lock
inspect out
inspect tiny.safetensors
inspect builtin:skyline
inspect out/patches/01-edit-0.safetensors
inspect out/patches/02-edit-1.safetensors
inspect rules/rules/01-edit-0.safetensors
inspect mask.png
inspect faint.png
inspect edited.safetensors
apply --model tiny.safetensors out -o edited.safetensors
apply --model tiny.safetensors out --dry-run
apply --model edited.safetensors out -o again.safetensors
apply --model builtin:skyline out -o again.safetensors
inspect edited.safetensors
verify --model tiny.safetensors out
verify --model tiny.safetensors out --spec spec.yaml
verify --model edited.safetensors out
compose out -o one.safetensors
inspect one.safetensors
compose out/patches/01-edit-0.safetensors -o small.safetensors --spec spec.yaml --rank 1
rebase out --model edited.safetensors --keep-deltas -o rebased
diff out/patches/01-edit-0.safetensors out/patches/02-edit-1.safetensors
diff out/patches/01-edit-0.safetensors one.safetensors
diff tiny.safetensors edited.safetensors
diff tiny.safetensors tiny.safetensors
diff out rebased
audit out --base tiny.safetensors --edited edited.safetensors
adopt --base tiny.safetensors --edited edited.safetensors -o adopted.safetensors
export out/patches/01-edit-0.safetensors --format delta -o delta
export out --format full --model tiny.safetensors -o full
convert tiny.safetensors converted.safetensors
sample tiny.safetensors -o sheet.png
render spec.yaml -o pictures.png
search spec.yaml
compare-layers spec.yaml
card out
card out --spec spec.yaml
init new --model tiny.safetensors
blame spec.yaml -o why --latent 3
blame spec.yaml -o why --latent 3 --mask no.png
bisect spec.yaml --measure trace --latent 3 --at-most 0.1
bisect spec.yaml --measure collateral --latent 3 --at-most 0
sweep spec.yaml -o sweep --layers layer5 --ranks 1
tune spec.yaml -o tuned --edit none
sample tiny.safetensors --family nothing -o sheet.png
plan spec.yaml --device tpu
families
cache
cache --help
"""
"""The commands, in an order in which each finds the files that it needs."""

ELSEWHERE = {
    "studio",  # a server, whose pages tests/studio looks at
    "schema",  # JSON
    "push",  # needs a hub
    "sign",  # needs a key pair
    "import",  # records, whose messages tests/compiler/test_invalid.py compares
}


@pytest.fixture(scope="module")
def lines() -> list[list[str]]:
    """The lines of commands, as words."""
    return [line.split() for line in LINES.strip().splitlines()]


def test_every_command_is_looked_at(lines: list[list[str]]) -> None:
    assert {name for name, *_ in lines} | ELSEWHERE == set(COMMANDS)


def test_no_command_shows_values_of_python(
    tiny_spec: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[list[str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = yaml.safe_load(tiny_spec(tmp_path, edits=2).read_text())
    images = [{"latents": [3, 4]}]
    spec["checks"] = [
        {"measure": "efficacy", "at_least": 0},
        {"measure": "collateral", "images": images, "at_most": 9},
        {"measure": "finite"},
        {"measure": "retention", "at_least": 0, "severity": "warn"},
    ]
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    Path("failing.yaml").write_text(
        yaml.safe_dump(spec | {"checks": [{"measure": "target-error", "at_most": 0}]})
    )
    Path("bare.yaml").write_text(yaml.safe_dump({"version": 1, "model": spec["model"]}))
    broken = {"version": True, "model": None, "edits": [{"name": ["a"], "layer": 7, "rank": {}}]}
    Path("broken.yaml").write_text(yaml.safe_dump(broken))
    Image.new("L", (8, 8), 255).save("mask.png")
    Image.new("L", (8, 8), 1).save("faint.png")
    found, silent = [], []
    for words in lines:
        result = run(*words)
        said = result.stdout + result.stderr
        if not said.strip():
            silent.append(" ".join(words))
        for line in said.splitlines():
            if REPR.search(line):
                found.append(f"{' '.join(words)}: {line}")
        if result.exit_code == 2 and "Usage:" in result.stderr:
            found.append(f"{' '.join(words)}: {result.stderr}")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            found.append(f"{' '.join(words)}: {result.exception!r}")
    assert not found, "\n".join(found)
    assert not silent


@pytest.mark.parametrize("text", ["a: None", "shape ['x']", "{'a': 1}", "dtype=torch.float32"])
def test_a_value_of_python_would_be_seen(text: str) -> None:
    assert REPR.search(text)
    assert not REPR.search("none, yes, no: 3 x 4, float32, [1, 2]")
