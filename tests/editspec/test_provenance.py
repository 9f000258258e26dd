"""Statements of in-toto and SLSA, read by their own protobufs; signatures, and what they notice."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import Result

from editspec.engine.provenance import require_statement
from editspec_runtime.errors import SignatureError
from editspec_runtime.families.open import read_weights
from tests.commands import run, said


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Two edits that name masks and a latent, built with their provenance."""
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    save_file({"z": load_file("tiny.safetensors")["style.1.bias"]}, "latent.safetensors")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 12))
    mask.save("mask.png")
    edits = [
        {
            "name": name,
            "layer": layer,
            "source": {"latent": {"file": "latent.safetensors", "key": "z"}, "mask": "mask.png"},
            "target": {"latent": 6, "mask": {"box": [2, 2, 10, 10]}},
            "solver": {"method": "direct", "steps": 4, "learning_rate": 0.01},
        }
        for name, layer in (("one", "layer6"), ("two", "layer5"))
    ]
    model = {"family": "stylegan2", "weights": "tiny.safetensors"}
    data = {"version": 1, "model": model, "statistics": {"samples": 24}, "edits": edits}
    Path("spec.yaml").write_text(yaml.safe_dump(data))
    said("build", "spec.yaml", "-o", "out", "--provenance")
    return tmp_path


def test_a_statement_is_one_of_in_toto_and_slsa() -> None:
    text = Path("out/provenance.json").read_text()
    # Unknown fields and wrong types are errors of this parser.
    parsed = Statement.copy_from_pb(json_format.Parse(text, statement_pb2.Statement()))
    parsed.validate()
    assert parsed.pb.predicate_type == "https://slsa.dev/provenance/v1"
    predicate = json_format.Parse(
        json.dumps(json.loads(text)["predicate"]), provenance_pb2.Provenance()
    )
    assert predicate.build_definition.build_type
    assert predicate.run_details.builder.id
    # The protobufs can refuse: a field that SLSA does not have, a subject without a digest.
    wrong = json.loads(text)
    wrong["predicate"]["buildDefinition"]["dependencies"] = []
    with pytest.raises(json_format.ParseError):
        json_format.Parse(json.dumps(wrong["predicate"]), provenance_pb2.Provenance())
    del wrong["subject"][0]["digest"]
    with pytest.raises(ValueError, match="digest required"):
        Statement.copy_from_pb(
            json_format.Parse(json.dumps(wrong), statement_pb2.Statement())
        ).validate()


def test_it_names_all_that_went_in_and_came_out() -> None:
    content = json.loads(Path("out/provenance.json").read_text())
    names = ["01-one.safetensors", "02-two.safetensors"]
    assert content["subject"] == [
        {"name": f"patches/{name}", "digest": {"sha256": sha256(f"out/patches/{name}")}}
        for name in names
    ]
    definition, details = (
        content["predicate"]["buildDefinition"],
        content["predicate"]["runDetails"],
    )
    spec = definition["externalParameters"]["spec"]
    assert [edit["name"] for edit in spec["edits"]] == ["one", "two"]
    assert spec["edits"][0]["solver"]["steps"] == 4
    found = {entry["name"]: entry for entry in definition["resolvedDependencies"]}
    for name in ("tiny.safetensors", "mask.png", "latent.safetensors"):
        assert found[name]["digest"] == {"sha256": sha256(name)}
    assert found["tiny.safetensors"]["annotations"] == {
        "weights": read_weights(Path("tiny.safetensors")).digest()
    }
    moments = said("statistics", "spec.yaml")["statistics"]
    for moment in moments:
        assert found[f"second-moment/{moment['edit']}"]["digest"] == {"sha256": moment["digest"]}
    assert len(found) == len(definition["resolvedDependencies"]) == 5
    assert details["byproducts"] == [
        {"name": f"rules/{name}", "digest": {"sha256": sha256(f"out/rules/{name}")}}
        for name in names
    ]


def test_the_same_build_gives_the_same_statement(program: Path, folder: Path) -> None:
    before = Path("out/provenance.json").read_bytes()
    assert str(folder).encode() not in before
    shutil.copytree(folder, folder / "elsewhere", ignore=shutil.ignore_patterns("out"))
    command = [program, "build", "spec.yaml", "-o", "x", "--provenance"]
    subprocess.run(command, check=True, capture_output=True, cwd="elsewhere")
    assert Path("elsewhere/x/provenance.json").read_bytes() == before
    with Path("mask.png").open("ab") as mask:
        mask.write(b"\0")  # other bytes of the same mask
    said("build", "spec.yaml", "-o", "out", "--provenance")
    assert Path("out/provenance.json").read_bytes() != before
    # Without it, a statement of an earlier build would be of other patches.
    said("build", "spec.yaml", "-o", "out")
    assert not Path("out/provenance.json").exists()


def key(name: str, private: Any = None) -> tuple[Path, Path]:
    """The files of a private key and of its public key."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    paths = Path(f"{name}.pem"), Path(f"{name}.pub")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    paths[0].write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    paths[1].write_bytes(
        private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return paths


PATCHES = ("out/patches/01-one.safetensors", "out/patches/02-two.safetensors")


def verified(public_key: Path) -> Result:
    return run("verify", *PATCHES, "--model", "tiny.safetensors", "--public-key", public_key)


def test_a_signature_is_of_every_byte_of_patches_and_statement() -> None:
    private, public = key("ours")
    assert said("sign", "out", "--key", private)["signature"] == "out/model.sig"
    result = verified(public)
    assert (result.exit_code, "signed by this key" in result.stdout) == (0, True), result.stderr
    draw = random.Random(1)
    for name in (*PATCHES, "out/provenance.json"):
        sound = Path(name).read_bytes()
        for _ in range(8):
            changed = bytearray(sound)
            changed[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
            Path(name).write_bytes(changed)
            result = verified(public)
            assert (result.exit_code, "The signature of" in result.stderr) == (1, True), (
                result.stderr
            )
            assert Path(name).name in result.stderr
        Path(name).write_bytes(sound)
    assert verified(public).exit_code == 0
    # What lies beside them is not signed; a patch that is added or missing is noticed.
    Path("out/notes.txt").write_text("mine")
    Path("out/rules/01-one.safetensors").unlink()
    assert verified(public).exit_code == 0
    shutil.copy(PATCHES[0], "out/patches/03-three.safetensors")
    assert "03-three" in verified(public).stderr
    Path("out/patches/03-three.safetensors").unlink()
    Path(PATCHES[1]).rename("two.safetensors")
    one = run("verify", PATCHES[0], "--model", "tiny.safetensors", "--public-key", public)
    assert (one.exit_code, "02-two" in one.stderr) == (1, True)


def test_another_key_and_a_changed_signature_are_noticed() -> None:
    private, public = key("ours")
    _, other = key("other")
    said("sign", "out", "--key", private)
    result = verified(other)
    assert (result.exit_code, "not that of its files by this key" in result.stderr) == (1, True)
    signature = json.loads(Path("out/model.sig").read_text())
    encoded = signature["dsseEnvelope"]["signatures"][0]["sig"]
    signature["dsseEnvelope"]["signatures"][0]["sig"] = (
        encoded[:20] + ("A" if encoded[20] != "A" else "B") + encoded[21:]
    )
    Path("out/model.sig").write_text(json.dumps(signature))
    assert verified(public).exit_code == 1
    Path("out/model.sig").write_text("{}")
    assert verified(public).exit_code == 1
    Path("out/model.sig").unlink()
    assert "is not signed" in verified(public).stderr
    # Without a key, a signature is not asked for.
    assert not said("verify", *PATCHES, "--model", "tiny.safetensors")["signed"]


def test_what_cannot_be_signed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = key("ours")
    for wrong, code in (
        ("missing.pem", 2),
        ("spec.yaml", 1),
        (public, 1),
        (key("edwards", ed25519.Ed25519PrivateKey.generate())[0], 1),
    ):
        result = run("sign", "out", "--key", wrong)
        assert (result.exit_code, result.stderr.startswith("error: ")) == (code, True)
        assert "defect" not in result.stderr
    assert not Path("out/model.sig").exists()
    shutil.copytree("out", "other")
    Path("other/patches/02-two.safetensors").unlink()
    assert (
        "not of the patches beside it: patches/02-two"
        in run("sign", "other", "--key", private).stderr
    )
    Path("other/provenance.json").write_text("[]")
    assert "not the statement of a build" in run("sign", "other", "--key", private).stderr
    Path("other/provenance.json").unlink()
    assert "--provenance" in run("sign", "other", "--key", private).stderr
    with pytest.raises(SignatureError):
        require_statement(Path("other"))
    loose = shutil.copy(PATCHES[0], "loose.safetensors")
    result = run("verify", loose, "--model", "tiny.safetensors", "--public-key", public)
    assert (result.exit_code, "of a build folder" in result.stderr) == (2, True)


def test_the_package_verifies_it_by_itself() -> None:
    private, public = key("ours")
    said("sign", "out", "--key", private)
    for name in ("rules", "manifest.json"):
        path = Path("out", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        "out",
        "--signature",
        "out/model.sig",
        "--public_key",
        str(public),
    ]
    assert subprocess.run(command, capture_output=True).returncode == 0
    Path("out/provenance.json").write_text("{}")
    assert subprocess.run(command, capture_output=True).returncode != 0
