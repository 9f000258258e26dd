"""`inspect` shows a build folder, its manifest and a lock."""

from __future__ import annotations

from pathlib import Path

import yaml
from safetensors.torch import save_file

from tests.cases import tiny_stylegan2
from tests.commands import run, said


def test_what_a_build_writes_can_be_inspected(tmp_path: Path) -> None:
    save_file(tiny_stylegan2(), tmp_path / "tiny.safetensors")
    place = {"latent": 5, "mask": {"box": [8, 4, 22, 22]}}
    edit = {"name": "e", "layer": "layer6", "source": {**place, "latent": 6}, "target": place}
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
                "statistics": {"samples": 16},
                "edits": [edit | {"solver": {"method": "direct", "steps": 3}}],
            }
        )
    )
    (built,) = said("build", spec, "-o", tmp_path / "out")["edits"]
    lock = tmp_path / "spec.yaml.lock"
    for kind, path in (
        ("build", tmp_path / "out"),
        ("build", tmp_path / "out" / "manifest.json"),
        ("lock", lock),
    ):
        facts = said("inspect", path)
        assert facts["kind"] == kind
        (shown,) = facts["edits"]
        assert (shown["name"], shown["loss"]) == ("e", built["loss"])
        assert built["digest"] in (shown.get("digest"), shown.get("patch"))
        text = run("inspect", path).stdout
        assert "name e" in text
        assert not any(each in text for each in ("None", "True", "['", "{'"))
    # Another folder is none of them, and a broken lock says what it is.
    (tmp_path / "empty").mkdir()
    assert run("inspect", tmp_path / "empty").exit_code != 0
    lock.write_text("")
    assert "the lock is empty" in run("inspect", lock).stderr
