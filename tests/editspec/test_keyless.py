"""Signatures by identities, made and verified with a Sigstore of our own; what they notice."""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.commands import contents, run, said
from tests.own_sigstore import OwnSigstore

ADA, ISSUER = "ada@example.org", "https://login.example.org"


@pytest.fixture(scope="module")
def sigstore() -> Iterator[OwnSigstore]:
    server = OwnSigstore()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def signed(
    tiny_spec: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, sigstore: OwnSigstore
) -> Path:
    """A folder with a build that Ada has signed in a job of CI."""
    folder = tmp_path_factory.mktemp("signed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDITSPEC_CACHE", str(folder / "cache"))
        said("build", tiny_spec(folder, edits=2), "-o", "out", "--provenance")
        sigstore.trust_config(Path("trust.json"))
        be_a_job(patch, sigstore)
        sign = said("sign", "out", "--keyless", "--trust-config", "trust.json")
    assert sign == {"signature": "out/model.sig", "identity": ADA, "issuer": ISSUER}
    return folder


def be_a_job(patch: pytest.MonkeyPatch, sigstore: OwnSigstore) -> None:
    """Go on as a job of a CI that gives identity tokens."""
    patch.setenv("GITHUB_ACTIONS", "true")
    patch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of this job")
    patch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.address}/job")


@pytest.fixture(autouse=True)
def folder(
    signed: Path,
    sigstore: OwnSigstore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A copy of the signed build, and a machine that is not a job of CI."""
    monkeypatch.chdir(tmp_path)
    for variable in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(variable, raising=False)
    shutil.copytree(signed, tmp_path, dirs_exist_ok=True)
    yield tmp_path
    sigstore.identity, sigstore.issuer, sigstore.clock = ADA, ISSUER, 0
    sigstore.refusals.clear()


def verified(*more: str, identity: str = ADA, issuer: str = ISSUER, out: str = "out") -> Result:
    model = ("--model", "tiny.safetensors", "--trust-config", "trust.json")
    return run("verify", out, *model, "--identity", identity, "--issuer", issuer, *more)


def sign(*more: str) -> Result:
    return run("sign", "out", "--keyless", "--trust-config", "trust.json", *more)


def test_it_says_who_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = verified()
    assert result.exit_code == 0, result.stderr
    assert f"signed by {ADA} (vouched for by {ISSUER})" in result.stdout
    found = json.loads(verified("--json").stdout)
    assert (found["signed"], found["identity"], found["issuer"]) == (True, ADA, ISSUER)
    # With a trust config nothing is asked over the network.
    monkeypatch.setenv("EDITSPEC_OFFLINE", "1")
    assert verified().exit_code == 0
    # What is beside patches and statement is not signed.
    shutil.rmtree("out/rules")
    assert verified().exit_code == 0


def test_another_identity_or_issuer_is_refused() -> None:
    result = verified(identity="eve@example.org")
    assert result.exit_code == 1
    assert f"is signed by {ADA}, and not by eve@example.org" in result.stderr
    result = verified(issuer="https://elsewhere.example.org")
    assert result.exit_code == 1
    assert f"{ISSUER} vouches, and not https://elsewhere.example.org" in result.stderr


def test_a_changed_added_or_missing_file_is_named() -> None:
    names = ["out/patches/01-edit-0.safetensors", "out/provenance.json"]
    for name in names:
        sound = Path(name).read_bytes()
        Path(name).write_bytes(sound[:-2] + bytes([sound[-2] ^ 1]) + sound[-1:])
        result = verified()
        assert (result.exit_code, "not as they were signed are" in result.stderr) == (1, True)
        assert Path(name).name in result.stderr
        assert "['" not in result.stderr
        Path(name).write_bytes(sound)
    assert verified().exit_code == 0
    shutil.copy(names[0], "out/patches/03-edit-0.safetensors")
    assert "03-edit-0" in verified().stderr
    Path("out/patches/03-edit-0.safetensors").unlink()
    Path("out/patches/02-edit-1.safetensors").unlink()
    assert "02-edit-1" in verified().stderr


def test_a_signature_of_another_build_is_refused(tiny_spec: Callable[..., Path]) -> None:
    said("build", tiny_spec(Path(), edits=2, steps=4), "-o", "other", "--provenance")
    shutil.copy("out/model.sig", "other/model.sig")
    result = verified(out="other")
    assert (result.exit_code, "01-edit-0" in result.stderr) == (1, True)


def change(path: list[Any], value: Any) -> None:
    """Replace a value in the signature; None removes it."""
    signature = json.loads(Path("out/model.sig").read_text())
    place = signature
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    Path("out/model.sig").write_text(json.dumps(signature))


ENTRY = ["verificationMaterial", "tlogEntries", 0]
PROOF = [*ENTRY, "inclusionProof"]
ZEROS = base64.b64encode(bytes(32)).decode()

CHANGES = [
    (["verificationMaterial", "tlogEntries"], [], "is missing or damaged"),
    (["verificationMaterial", "certificate"], None, "is missing or damaged"),
    (["verificationMaterial"], {}, "is missing or damaged"),
    (["mediaType"], "text/plain", "is missing or damaged"),
    (PROOF, None, "is missing or damaged"),
    ([*ENTRY, "inclusionPromise"], None, "is missing or damaged"),
    ([*PROOF, "rootHash"], ZEROS, "was changed"),
    ([*PROOF, "hashes"], [], "was changed"),
    ([*PROOF, "checkpoint", "envelope"], "our log\n3\n\n", "was changed"),
    ([*ENTRY, "integratedTime"], "1", "had expired"),
    ([*ENTRY, "logIndex"], "0", "was changed"),
    (["dsseEnvelope", "signatures", 0, "sig"], ZEROS, "was changed"),
    (["dsseEnvelope"], None, "is missing or damaged"),
]


@pytest.mark.parametrize(("path", "value", "reason"), CHANGES)
def test_a_changed_signature_is_refused(path: list[Any], value: Any, reason: str) -> None:
    change(path, value)
    result = verified()
    assert (result.exit_code, reason in result.stderr) == (1, True), result.stderr
    assert "defect" not in result.stderr


def test_what_was_signed_cannot_be_replaced() -> None:
    """Not even where all files are as the changed signature lists them."""
    signature = json.loads(Path("out/model.sig").read_text())
    statement = base64.b64decode(signature["dsseEnvelope"]["payload"])
    changed = base64.b64encode(statement.replace(b"edit-0", b"edit-9")).decode()
    change(["dsseEnvelope", "payload"], changed)
    Path("out/patches/01-edit-0.safetensors").rename("out/patches/01-edit-9.safetensors")
    result = verified()
    assert (result.exit_code, "was changed" in result.stderr) == (1, True), result.stderr
    Path("out/model.sig").write_text("{}")
    assert "is not a signature" in verified().stderr
    Path("out/model.sig").write_text("[" * 100_000)
    assert "is not a signature" in verified().stderr
    Path("out/model.sig").unlink()
    assert "is not signed" in verified().stderr


def test_a_certificate_must_be_in_time_and_of_this_sigstore(
    sigstore: OwnSigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_a_job(monkeypatch, sigstore)
    sigstore.clock = 3600  # so that the log has the entry after the certificate has expired
    assert sign().exit_code == 0
    result = verified()
    assert (result.exit_code, "had expired when it signed" in result.stderr) == (1, True)
    sigstore.clock = 0
    assert (sign().exit_code, verified().exit_code) == (0, 0)
    other = OwnSigstore()
    other.trust_config(Path("trust.json"))
    other.shutdown()
    other.server_close()
    result = verified()
    assert (result.exit_code, "is not of this Sigstore" in result.stderr) == (1, True)


def test_a_workflow_signs_by_its_address(
    sigstore: OwnSigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = "https://example.org/us/edits/.github/workflows/edits.yml@refs/heads/main"
    be_a_job(monkeypatch, sigstore)
    sigstore.identity = workflow
    result = sign()
    assert (result.exit_code, f"signed by {workflow}" in result.stdout) == (0, True)
    assert verified(identity=workflow).exit_code == 0
    assert verified(identity=workflow.replace("main", "other")).exit_code == 1


def test_a_person_signs_in_at_a_terminal(
    program: Path, folder: Path, sigstore: OwnSigstore
) -> None:
    """Without a browser a code is asked for, and stdout holds the answer alone."""
    sigstore.identity = "grace@example.org"
    command = ["sign", "out", "--keyless", "--trust-config", "trust.json", "--json"]
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [program, *command],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "BROWSER": "false"},
        text=True,
    )
    os.write(main, b"1234\n")
    stdout, stderr = process.communicate(timeout=600)
    os.close(main)
    os.close(terminal)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["identity"] == "grace@example.org"
    assert f"{sigstore.address}/authorize" in stderr
    assert verified(identity="grace@example.org").exit_code == 0


def test_what_goes_wrong_while_signing_is_named(
    sigstore: OwnSigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(Path("out"))

    def refused(reason: str, hint: str, code: int = 1) -> None:
        result = sign()
        assert (result.exit_code, reason in result.stderr) == (code, True), result.stderr
        assert hint in result.stderr
        assert "defect" not in result.stderr
        assert contents(Path("out")) == before

    refused("There is no identity to sign with", "or sign with --key")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    refused("gets no identity token", "id-token: write")
    be_a_job(monkeypatch, sigstore)
    services = {
        "/.well-known/openid-configuration": "the service for signing in",
        "/api/v2/signingCert": "the certificate authority refuses the identity",
        "/api/v1/log/entries": "the transparency log does not take the signature",
    }
    for path, reason in services.items():
        sigstore.refusals = {path: 403}
        refused(reason, "hint: ")
        sigstore.refusals = {path: 200}  # and says nothing
        refused("cannot be signed", "hint: ")
    sigstore.refusals.clear()
    monkeypatch.setenv("EDITSPEC_OFFLINE", "1")
    refused("EDITSPEC_OFFLINE is set", "Unset it")
    monkeypatch.delenv("EDITSPEC_OFFLINE")
    gone = Path("trust.json").read_text().replace(sigstore.address, "http://127.0.0.1:9")
    Path("trust.json").write_text(gone)
    refused("the service for signing in cannot be reached", "--trust-config")
    Path("trust.json").write_text("{}")
    refused("is not the client trust config of a Sigstore", "trustedRoot")
    assert "is not the client trust config" in verified().stderr
    Path("trust.json").unlink()
    refused("trust.json", "hint: ", code=2)


def test_options_that_do_not_go_together_are_named() -> None:
    model = ("--model", "tiny.safetensors")
    for command in (
        ("sign", "out"),
        ("sign", "out", "--key", "key.pem", "--keyless"),
        ("sign", "out", "--key", "key.pem", "--trust-config", "trust.json"),
        ("verify", "out", *model, "--public-key", "key.pub", "--identity", ADA),
        ("verify", "out", *model, "--identity", ADA),
        ("verify", "out", *model, "--issuer", ISSUER),
        ("verify", "out", *model, "--trust-config", "trust.json"),
    ):
        result = run(*command)
        assert (result.exit_code, "hint: Give --" in result.stderr) == (2, True), command


def test_signatures_by_keys_and_by_identities_are_not_taken_for_each_other() -> None:
    for command in (
        "openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
        "openssl ec -in key.pem -pubout -out key.pub",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    key = ("--model", "tiny.safetensors", "--public-key", "key.pub")
    result = run("verify", "out", *key)
    assert (result.exit_code, "signed by an identity" in result.stderr) == (1, True)
    said("sign", "out", "--key", "key.pem")
    assert run("verify", "out", *key).exit_code == 0
    result = verified()
    assert (result.exit_code, "signed by a key" in result.stderr) == (1, True)
