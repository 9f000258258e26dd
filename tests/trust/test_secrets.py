"""Secrets in addresses: refused where they would be kept, and shown by nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from editspec_runtime.confidential import hide_secrets, holds_secret
from tests.commands import run

PIN = "#sha256=" + "0" * 64

SECRETS = [
    "https://user:hunter2@localhost/w.safetensors",
    "https://user:hun@ter2@localhost/w.safetensors",
    "https://user:hun/ter2@localhost/w.safetensors",
    "https://ter2@localhost/w.safetensors",
    "ftp://user:hunter2@localhost/w.safetensors",
    "s3://user:hunter2@bucket/w.safetensors",
    "hf://user:hunter2@org/repo/w.safetensors",
    "https://localhost/w.safetensors?X-Amz-Signature=hunter2&x=1",
    "https://localhost/w.safetensors?x=1&api_key=hunter2",
]

OPEN = [
    "https://localhost/w.safetensors?download=1",
    "https://localhost:8080/w@v1/x.safetensors",
    "hf://org/repo/w.safetensors@main",
    "git+ssh://git@localhost/x//y.yaml@v1",
    "weights/a@b.safetensors",
]


def save(weights: str, **edit: Any) -> None:
    """Write a spec of these weights, with an edit where one is given."""
    spec: dict[str, Any] = {"version": 1, "model": {"family": "stylegan2", "weights": weights}}
    if edit:
        spec["edits"] = [{"name": "first", "layer": "layer5", **edit}]
    Path("spec.yaml").write_text(yaml.safe_dump(spec))


@pytest.mark.parametrize("address", SECRETS)
@pytest.mark.parametrize(
    "command",
    [
        ("validate", "spec.yaml"),
        ("validate", "spec.yaml", "--json"),
        ("build", "spec.yaml", "-o", "out"),
        ("inspect", "{}"),
        ("init", "--model", "{}"),
        ("convert", "{}", "out.safetensors"),
    ],
)
def test_weights_behind_a_secret_are_refused(
    address: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(address + PIN)
    refused = run(*(each.format(address + PIN) for each in command))
    said = refused.stderr + refused.stdout
    assert refused.exit_code == 2
    assert "which could be a secret" in said
    assert "ter2" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


@pytest.mark.parametrize("address", SECRETS)
def test_no_message_shows_a_secret_of_whatever_is_named(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mask = {"latent": 1, "mask": address}
    save("builtin:skyline", source=mask, target=mask, solver=address)
    for refused in (run("validate", "spec.yaml"), run("validate", "spec.yaml", "--json")):
        said = refused.stderr + refused.stdout
        assert (refused.exit_code, "mask" in said, "ter2" in said) == (2, True, False)
    json.loads(refused.stdout)


@pytest.mark.parametrize("address", OPEN)
def test_addresses_without_a_secret_are_shown_whole(address: str) -> None:
    assert not holds_secret(address)
    assert hide_secrets(address) == address


def test_a_long_line_takes_no_long_time() -> None:
    line = "://a:?" * 200_000
    assert hide_secrets(line) == line
