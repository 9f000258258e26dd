"""The API of the studio: who may use it, what it changes, and that what it builds is what the
command line builds.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
import schemathesis
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import editspec
from editspec.studio.draft_store import lock_spec
from editspec.studio.guard import MAX_BODY, Guard
from editspec.studio.jobs import Busy, Jobs
from editspec.studio.server import serve
from editspec.studio.yaml_blocks import OFF
from editspec_compiler import SpecError
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.torch_module.source import run_factory
from editspec_runtime.io.builtins import BUILTINS
from editspec_runtime.io.files import read_header
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import run, said

Make = Callable[..., Any]

PATIENCE = 600
"""Seconds after which a wait for something that has to happen is given up."""

SPEC = Path(__file__).parents[1] / "recipes" / "three_edits.yaml"


def test_a_photograph_that_was_projected_is_drawn_from_its_w(
    make_studio: Make, tmp_path: Path
) -> None:
    generator = make_model("stylegan2", read_weights(BUILTINS["builtin:skyline"]).tensors)
    z = LatentStream(1, generator.architecture.latent_size).items([31])
    np.savez(tmp_path / "projected_w.npz", w=generator.styles(z).numpy())
    studio = make_studio(
        "version: 1\n"
        "model: {family: stylegan2, weights: builtin:skyline}\n"
        "edits:\n"
        "  - name: edit\n"
        "    layer: layer6\n"
        "    source: {latent: {file: projected_w.npz, space: w}, mask: {box: [8, 8, 22, 28]}}\n"
        "    target: {latent: 31, mask: {box: [128, 128, 352, 448], of: [1024, 1024]}}\n"
    )
    drawn = studio.call("GET", "edits/0/scenes/source").content
    assert drawn == studio.call("GET", "edits/0/scenes/target").content
    source, target = (studio.call("GET", f"edits/0/masks/{role}") for role in ("source", "target"))
    assert source.content == target.content
    box = {"box": [0, 0, 512, 512], "of": [1024, 1024]}
    studio.call("PUT", "edits/0/places/source", {"latent": 4, "mask": box})
    assert "{box: [0, 0, 512, 512], of: [1024, 1024]}" in studio.draft.text


def test_places_of_several_images_are_shown_and_executed(make_studio: Make) -> None:
    studio = make_studio(
        f"{SKYLINE_MODEL}statistics: {{samples: 64}}\n"
        "edits:\n"
        "  - name: edit\n"
        "    layer: layer7\n"
        "    source: {latent: 12, mask: {box: [8, 8, 22, 28]}}\n"
        "    target: {latents: [31, 77], mask: {box: [8, 8, 22, 28]}}\n"
        "    context: [{latents: [31, 77, 4], mask: {box: [8, 8, 22, 28]}}, {file: rows.csv}]\n"
        "    solver: least-squares\n"
    )
    (studio.path.parent / "rows.csv").write_text('latent,mask\n6,"{box: [8, 8, 22, 28]}"\n')
    (edit,) = studio.call("GET", "spec")["edits"]
    assert edit["note"] == "several pairs of sources and targets"
    words = [place["words"] for place in (*edit["context"], edit["target"])]
    assert words == ["several images", "the rows of rows.csv", "several images"]
    studio.call("GET", "edits/0/scenes/context")
    place = {"latent": 4, "mask": {"box": [1, 1, 9, 9]}}
    studio.call("PUT", "edits/0/places/context", {**place, "index": 0}, 422)
    studio.call("PUT", "edits/0/places/context", place)
    assert "- {latents: [31, 77, 4], mask" in studio.draft.text
    assert studio.run("execute")["results"]["edits"][0]["loss"] > 0


def test_several_copies_and_the_nearest_image_are_named_and_executed(make_studio: Make) -> None:
    nearest = "{nearest: {latents: [3, 4]}}"
    copies = f"[{nearest}, {{latent: 12, mask: {{box: [8, 8, 14, 18]}}}}]"
    text = (
        f"{SKYLINE_MODEL}statistics: {{samples: 64}}\n"
        "edits:\n"
        "  - name: edit\n"
        "    layer: layer7\n"
        f"    source: {copies}\n"
        "    target: {latent: 31, mask: {box: [8, 8, 22, 28]}}\n"
        "    solver: least-squares\n"
    )
    studio = make_studio(text)
    (edit,) = studio.run("execute")["results"]["edits"]
    assert edit["loss"] > 0
    notes = []
    for written in (text, text.replace(copies, nearest)):
        state = studio.call("PUT", "spec", {"text": written})
        assert not state["problems"]
        notes.append(state["edits"][0]["note"])
    assert notes == ["several copies into one target", "the most alike of several images"]


def test_the_token_opens_and_nothing_else_does(studio: Any) -> None:
    bare = TestClient(studio.client.app, base_url="http://127.0.0.1:8642")
    assert bare.get("/", params={"token": "t0ken"}).status_code == 200
    assert bare.get("/api/spec", params={"token": "t0ken"}).status_code == 200
    assert bare.get("/api/spec", headers={"Authorization": "Bearer t0ken"}).status_code == 200
    for query in ({}, {"token": ""}, {"token": "t0ke"}, {"token": "é"}):
        for path in ("/", "/api/spec", "/api/openapi.json", "/api/events", "/nothing"):
            assert bare.get(path, params=query).status_code == 401, (path, query)
        assert (
            bare.put("/api/spec", params=query, json={"revision": 0, "text": ""}).status_code == 401
        )


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "10.0.0.7", ""]
)
def test_a_foreign_name_is_refused(studio: Any, host: str) -> None:
    assert studio.client.get("/api/spec", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:9", "[::1]:8642"])
def test_names_of_this_machine_are_not(studio: Any, host: str) -> None:
    assert studio.client.get("/api/spec", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:8642"}, 200),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_a_foreign_page_is_refused(studio: Any, headers: dict[str, str], status: int) -> None:
    assert studio.client.get("/api/spec", headers=headers).status_code == status


def test_a_server_on_the_network_goes_by_numbers_and_its_name(studio: Any) -> None:
    app = Guard(studio.client.app.app, "t0ken", "192.168.1.5")
    client = TestClient(app, headers={"Authorization": "Bearer t0ken"})
    for host, status in (("192.168.1.5:8642", 200), ("evil.example", 403)):
        assert client.get("/api/spec", headers={"Host": host}).status_code == status


def test_what_is_too_large_is_refused(studio: Any) -> None:
    large = b'{"revision": 0, "text": "' + b"x" * MAX_BODY + b'"}'
    assert studio.client.put("/api/spec", content=large).status_code == 413
    chunks = (large[start : start + 2**20] for start in range(0, len(large), 2**20))
    assert studio.client.put("/api/spec", content=chunks).status_code == 413
    assert studio.client.put(
        "/api/spec", content=b"x", headers={"Content-Length": "-1"}
    ).status_code in (400, 413)
    assert studio.draft.revision == 0


@pytest.mark.parametrize(
    "mask",
    [
        "masks/other.png",
        "data:image/png;base64,AAAA",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/svg+xml;base64,PHN2Zy8+",
    ],
)
def test_what_is_no_painted_mask_is_refused(studio: Any, mask: str) -> None:
    answer = studio.call("PUT", "edits/0/places/source", {"latent": 1, "mask": mask}, 422)
    assert answer["message"]
    assert not (studio.path.parent / "masks").exists()


OUTSIDE = {
    "a mask above": "latent: 1, mask: ../secret.png",
    "a mask from the root": "latent: 1, mask: /etc/passwd",
    "a link": "latent: 1, mask: link.png",
    "a union": "latent: 1, mask: {union: [../s.png]}",
    "a latent": "latent: {file: ../l.npy}, mask: m.png",
    "one of several latents": "latents: [{file: ../l.npy}, 2], mask: {box: [1, 1, 9, 9]}",
    "a byte of nothing": 'latent: 1, mask: "a\\0b"',
}


SKYLINE_MODEL = """\
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
"""


@pytest.mark.parametrize("place", OUTSIDE.values(), ids=OUTSIDE)
def test_no_path_leads_out_of_the_folder(studio: Any, place: str) -> None:
    secret = studio.path.parent.parent / "secret.png"
    secret.write_bytes(b"not to be read")
    (studio.path.parent / "link.png").symlink_to(secret)
    target = "{latent: 1, mask: {box: [1, 1, 9, 9]}}"
    edit = f"{{name: e, layer: layer7, source: {{{place}}}, target: {target}}}"
    text = f"{SKYLINE_MODEL}edits:\n  - {edit}\n"
    state = studio.call("PUT", "spec", {"text": text})
    assert any(
        "outside of the project folder" in problem["message"] for problem in state["problems"]
    )
    assert "not to be read" not in json.dumps(state)
    for request in ("edits/0/masks/source", "edits/0/scenes/source", "edits/0/heat/1"):
        studio.call("GET", request, None, 422)
    studio.call("POST", "edits/0/composite", None, 422)
    studio.call("POST", "execute", {}, 422)


def test_no_path_leads_out_by_the_rows_of_a_file(studio: Any) -> None:
    folder = studio.path.parent
    (folder.parent / "secret.jsonl").write_text('{"latent": "not to be read"}')
    (folder / "inside.jsonl").write_text('{"latent": 1, "mask": "../secret.png"}')
    place = "{latent: 1, mask: {box: [1, 1, 9, 9]}}"
    for file, outside in (
        ("../secret.jsonl", "../secret.jsonl"),
        ("inside.jsonl", "../secret.png"),
    ):
        sides = f"source: {place}, target: {place}, context: {{file: {file}}}"
        edit = f"{{name: e, layer: layer7, {sides}}}"
        state = studio.call("PUT", "spec", {"text": f"{SKYLINE_MODEL}edits:\n  - {edit}\n"})
        (problem,) = state["problems"]
        assert f"{outside} lies outside of the project folder" in problem["message"]
        assert "not to be read" not in json.dumps(state)
        for request in ("edits/0/masks/source", "edits/0/heat/1"):
            studio.call("GET", request, None, 422)
        studio.call("POST", "execute", {}, 422)


@pytest.mark.parametrize(
    "source",
    [
        "erase: {latent: 1, mask: in.png}, latent: 1, mask: ../secret.png",
        "latent: 1, mask: ../secret.png, erase: {latent: 1, mask: in.png}",
        "latent: 1, mask: {union: [../secret.png]}, unknown: 1",
        "latent: 1, mask: {box: [1, 1, 9, 9], union: [../secret.png]}",
        "latent: 1, latents: [2], mask: ../secret.png",
        "latents: [{file: ../secret.png}, 3], mask: in.png",
        "latent: 1, mask: {exclude: ../secret.png, box: [1, 1, 9, 9]}",
    ],
)
def test_no_path_leads_out_by_a_source_that_is_two_things(studio: Any, source: str) -> None:
    """A place is read although the rest of its edit is wrong, so it is checked by itself."""
    image = Image.new("L", (64, 64), 255)
    image.save(studio.path.parent.parent / "secret.png")
    image.save(studio.path.parent / "in.png")
    edit = f"{{name: e, layer: layer7, source: {{{source}}}}}"
    text = f"{SKYLINE_MODEL}edits:\n  - {edit}\n"
    studio.call("PUT", "spec", {"text": text})
    for method, request in (
        ("GET", "edits/0/masks/source"),
        ("GET", "edits/0/scenes/source"),
        ("POST", "edits/0/composite"),
    ):
        answer = studio.client.request(method, f"/api/{request}")
        assert answer.status_code in (404, 422), answer.content[:80]


@pytest.mark.parametrize(
    "model",
    [
        '{family: stylegan2, weights: "https://127.0.0.1:1/w.safetensors#sha256=' + "0" * 64 + '"}',
        '{family: stylegan2, weights: "hf://a/b/c.safetensors"}',
        "{family: torch, module: evil:make, weights: w.safetensors}",
        "{family: torch, weights: w.pt2}",
        "{family: stylegan2, weights: ../w.safetensors}",
        "{family: stylegan2, weights: ~/w.safetensors}",
    ],
)
def test_no_text_starts_foreign_code_or_a_download(
    studio: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(f"reached: {arguments}")

    for name in (
        "editspec_runtime.io.places.fetch",
        "editspec_runtime.families.torch_module.make.run_factory",
        "editspec_runtime.families.torch_module.make.read_exported",
    ):
        monkeypatch.setattr(name, never)
    (studio.path.parent / "evil.py").write_text("raise SystemExit('ran')")
    studio.make_edit()
    text = studio.draft.text.replace('{family: stylegan2, weights: "builtin:skyline"}', model)
    assert text != studio.draft.text
    state = studio.call("PUT", "spec", {"text": text})
    assert any(problem["path"] == "model" for problem in state["problems"])
    assert state["model"]["weights"] == "builtin:skyline"
    studio.call("POST", "execute", {}, 422)
    studio.call("POST", "edits/0/composite", None, 422)


def test_what_was_opened_may_lie_elsewhere(make_studio: Make, tmp_path: Path) -> None:
    text = SPEC.read_text().replace("../..", str(SPEC.parents[2]))
    studio = make_studio(text, name="edits.yaml")
    assert studio.call("GET", "spec")["problems"] == []
    other = studio.draft.text.replace("masks/towers.png", "masks/domes.png")
    assert studio.call("PUT", "spec", {"text": other})["problems"]


def test_two_tabs_do_not_overwrite_each_other(studio: Any) -> None:
    first = studio.call("GET", "spec")
    studio.call("PATCH", "edits/0", {"revision": first["revision"], "name": "mine"})
    refused = studio.call(
        "PUT", "spec", {"revision": first["revision"], "text": "version: 1\n"}, 409
    )
    assert "changed elsewhere" in refused["message"]
    assert studio.call("GET", "spec")["edits"][0]["name"] == "mine"
    for method, path in (
        ("PATCH", "edits/0"),
        ("POST", "edits"),
        ("POST", "undo"),
        ("POST", "save"),
        ("POST", "execute"),
    ):
        studio.call(method, path, {"revision": first["revision"]}, 409)
    studio.call("DELETE", "edits/0", None, 409, revision=first["revision"])


def test_every_change_can_be_undone(studio: Any) -> None:
    texts = [studio.draft.text]
    studio.make_edit(context=(8,))
    studio.call("PATCH", "edits/0", {"rank": 2, "layer": "layer6", "solver": "direct"})
    studio.call("POST", "edits", {})
    studio.call("PATCH", "edits/0", {"off": True})
    studio.call("PATCH", "edits/0", {"position": 1})
    last = studio.draft.text
    while studio.call("GET", "spec")["can_undo"]:
        studio.call("POST", "undo", {})
    assert studio.draft.text == texts[0]
    while studio.call("GET", "spec")["can_redo"]:
        studio.call("POST", "redo", {})
    assert studio.draft.text == last


def test_problems_stand_at_their_lines(studio: Any) -> None:
    studio.make_edit()
    text = studio.draft.text.replace("layer: layer6", "layer: laier6").replace(
        "rank: 4", "rank: -1"
    )
    problems = studio.call("PUT", "spec", {"text": text})["problems"]
    lines = text.splitlines()
    assert [lines[problem["line"] - 1].strip() for problem in problems] == [
        "layer: laier6",
        "rank: -1",
    ]
    broken = studio.call("PUT", "spec", {"text": "version: 1\nmodel: {a: [\n"})
    assert broken["problems"]
    assert not broken["readable"]
    assert [edit["name"] for edit in broken["edits"]] == ["edit-1"]
    assert broken["model"]["weights"] == "builtin:skyline"
    assert studio.call("POST", "undo", {})["problems"] == problems


def test_composites_follow_what_is_dragged(studio: Any) -> None:
    studio.make_edit()
    as_it_is = studio.call("POST", "edits/0/composite").content
    same = studio.call(
        "POST", "edits/0/composite", {"latent": 1932, "right": 0, "down": 0, "revision": 0}, 422
    )
    assert "revision" in same["message"]
    moved = [
        studio.client.post(
            "/api/edits/0/composite", json={"latent": 1932, "right": right, "down": 0}
        ).content
        for right in (0, 8)
    ]
    assert moved[0] == as_it_is
    assert moved[1] != as_it_is
    base = studio.call("GET", "spec")["model"]
    assert studio.call("GET", f"images/{base['name']}/1/1932").content != as_it_is


def test_what_is_built_is_what_the_command_line_builds(
    program: Path, make_studio: Make, tmp_path: Path
) -> None:
    studio = make_studio()
    studio.make_edit(context=(8, 18))
    studio.call("POST", "edits", {})
    studio.make_edit(1, source=0, target=9)
    studio.call("PATCH", "edits/0", {"off": True})
    state = studio.run("execute")
    assert state["failure"] is None
    assert [edit["name"] for edit in state["results"]["edits"]] == ["edit-2"]
    assert state["results"]["current"]
    saved = studio.call("POST", "save", {})
    assert saved["saved"]
    assert OFF in studio.path.read_text()
    options = ["-o", tmp_path / "out", "--json", "--threads", str(torch.get_num_threads())]
    command = [program, "build", studio.path, *options]
    made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [edit["digest"] for edit in made["edits"]] == [
        edit["digest"] for edit in state["results"]["edits"]
    ]

    on = studio.call("PATCH", "edits/0", {"off": False})
    assert not on["results"]["current"]
    both = studio.run("execute")
    assert [edit["name"] for edit in both["results"]["edits"]] == ["edit-1", "edit-2"]
    assert (
        both["results"]["edits"][1]["digest"] != made["edits"][0]["digest"]
    )  # it sees what edit-1 left


def test_masks_in_the_text_become_files(make_studio: Make) -> None:
    studio = make_studio()
    studio.make_edit()
    from_file = studio.draft.text
    url = studio.images.shift_mask(studio.draft.edits()[0]["source"]["mask"], 0, 0)
    name = studio.draft.edits()[0]["source"]["mask"]
    text = "# mine\n" + from_file.replace(name, f"'{url}'")
    studio.call("PUT", "spec", {"text": text})
    studio.call("POST", "save", {})
    saved = studio.path.read_text()
    assert "data:" not in saved
    assert saved.startswith("# mine\n")
    for place in ("source", "target"):
        mask = studio.path.parent / studio.draft.edits()[0][place]["mask"]
        assert mask.read_bytes().startswith(b"\x89PNG")


def test_a_file_that_was_changed_outside_is_not_overwritten_unasked(make_studio: Make) -> None:
    studio = make_studio(SPEC.read_text().replace("../..", str(SPEC.parents[2])))
    theirs = studio.path.read_text() + "# theirs\n"
    studio.path.write_text(theirs)
    studio.call("PATCH", "edits/0", {"rank": 2})
    assert studio.call("POST", "save", {}, 409)["code"] == "E607 changed-outside"
    assert studio.path.read_text() == theirs
    assert studio.call("POST", "save", {"overwrite": True})["saved"]
    assert "# theirs" not in studio.path.read_text()


def test_the_draft_survives_the_server(make_studio: Make) -> None:
    studio = make_studio()
    studio.make_edit(context=(8,))
    before = studio.run("execute")
    again = make_studio()
    assert again.jobs.wait(PATIENCE)
    after = again.call("GET", "spec")
    assert after["text"] == before["text"]
    assert after["revision"] == before["revision"]
    assert after["can_undo"]
    assert after["results"] == before["results"] | {"edits": after["results"]["edits"]}
    assert after["results"]["edits"][0]["digest"] == before["results"]["edits"][0]["digest"]


def test_a_spec_that_changed_while_nothing_was_drafted_is_taken(make_studio: Make) -> None:
    text = SPEC.read_text().replace("../..", str(SPEC.parents[2]))
    make_studio(text)
    newer = make_studio(text.replace("rank: 16", "rank: 8"))
    assert newer.call("GET", "spec")["edits"][0]["rank"] == 8
    assert newer.call("POST", "undo", {})["edits"][0]["rank"] == 16


def test_an_unreadable_draft_survives_the_server(make_studio: Make) -> None:
    studio = make_studio()
    studio.call("PUT", "spec", {"text": "version: [\n"})
    state = make_studio().call("GET", "spec")
    assert state["text"] == "version: [\n"
    assert state["problems"]


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    bad, module, new = tmp_path / "bad.yaml", tmp_path / "module.yaml", tmp_path / "new.yaml"
    bad.write_text("version: [")
    module.write_text(
        "version: 1\nmodel: {family: torch, module: 'm:f', weights: 'builtin:skyline'}\nedits: []\n"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases: tuple[tuple[Path, str | None, int, str], ...] = (
            (bad, None, 0, "bad.yaml:1"),
            (module, None, 0, "give --allow-code"),
            (SPEC, "builtin:skyline", 0, "has a model of its own"),
            (new, "builtin:none", 0, "There is no builtin:none"),
            (new, None, taken.getsockname()[1], "Nothing can listen"),
        )
        for spec, model, port, words in cases:
            with pytest.raises((SpecError, EditError), match=words):
                serve(
                    spec,
                    model,
                    host="127.0.0.1",
                    port=port,
                    device="cpu",
                    announce=pytest.fail,
                    tell=pytest.fail,
                )
    assert not new.exists()
    result = run("studio", bad)
    assert result.exit_code == 2
    assert "bad.yaml:1" in result.stderr


@pytest.mark.parametrize(("host", "name"), [("0.0.0.0", "localhost"), ("127.0.0.1", "127.0.0.1")])
def test_the_address_that_is_printed_can_be_opened(host: str, name: str, tmp_path: Path) -> None:
    """As that of all addresses of a container cannot, everywhere."""
    printed = []

    def announce(address: str) -> None:
        printed.append(address)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve(
            tmp_path / "new.yaml",
            "builtin:skyline",
            host=host,
            port=0,
            device="cpu",
            announce=announce,
            tell=str,
        )
    assert re.fullmatch(rf"http://{name}:\d+/\?token=[\w-]+", printed[0])


def test_one_studio_at_a_time(studio: Any) -> None:
    with lock_spec(studio.path), pytest.raises(UsageError, match="another studio"):
        lock_spec(studio.path)


def test_work_is_cancelled_where_it_reports() -> None:
    jobs, begun, is_cancelled, finished = Jobs(), Event(), Event(), []

    def work(progress: ProgressCallback) -> None:
        progress("counting", 1, 2)
        begun.set()
        assert is_cancelled.wait(PATIENCE)
        progress("counting", 2, 2)
        finished.append("work")

    jobs.start("count", work)
    with pytest.raises(Busy):
        jobs.start("other", work)
    assert begun.wait(PATIENCE)
    jobs.cancel()
    is_cancelled.set()
    assert jobs.wait(PATIENCE)
    assert finished == []
    assert jobs.failure is None


def test_work_that_yields_is_given_up_for_other_work() -> None:
    jobs, finished = Jobs(), []

    def count_forever(progress: ProgressCallback) -> None:
        for step in itertools.count():
            progress("counting", step, step + 1)
            time.sleep(0.001)

    jobs.start("curve", count_forever, yielding=True)
    jobs.start("other", lambda progress: finished.append("other"))
    assert jobs.wait(PATIENCE)
    assert finished == ["other"]
    assert jobs.failure is None


def test_the_end_of_work_is_told_before_the_wait_for_it_ends_and_before_the_next_begins() -> None:
    jobs, told, may_end = Jobs(), [], Event()

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "ended" and event["kind"] == "first":
            assert may_end.wait(PATIENCE)
        told.append((event["event"], event["kind"]))

    jobs.listeners.append(listen)
    jobs.start("first", lambda progress: None)
    while jobs.job is not None:
        time.sleep(0.001)
    assert not jobs.wait(0)
    Timer(0.1, may_end.set).start()
    jobs.start("second", lambda progress: None)
    assert jobs.wait(PATIENCE)
    assert told == [
        ("begun", "first"),
        ("ended", "first"),
        ("begun", "second"),
        ("ended", "second"),
    ]


def test_work_without_memory_or_disk_says_what_to_do() -> None:
    jobs = Jobs()
    for error in (MemoryError(), OSError(28, "No space left on device", "rules")):

        def work(progress: ProgressCallback, error: BaseException = error) -> None:
            raise error

        jobs.start("count", work)
        assert jobs.wait(PATIENCE)
        assert jobs.failure is not None
        assert jobs.failure["message"]
        assert jobs.failure["hint"]
        assert "No space left" not in jobs.failure["message"]


def test_cancelled_work_leaves_what_was_there(studio: Any) -> None:
    studio.make_edit()
    first = studio.run("execute")["results"]
    studio.call(
        "PATCH", "edits/0", {"solver": {"method": "projected-gradient", "steps": 1_000_000}}
    )
    studio.call("POST", "execute", {}, 202)
    studio.call("POST", "execute", {}, 409)
    studio.call("POST", "cancel")
    assert studio.jobs.wait(PATIENCE)
    state = studio.call("GET", "spec")
    assert state["failure"] is None
    stale = {**first["edits"][0], "current": False}
    assert state["results"] == first | {"current": False, "edits": [stale]}


def test_search_heat_and_curve(studio: Any) -> None:
    studio.make_edit(context=(8,))
    state = studio.run("edits/0/search")
    assert state["failure"] is None
    matches = state["edits"][0]["found"]
    assert len(matches) == 12
    assert matches == sorted(matches, key=lambda match: -match["score"])
    assert studio.call("GET", "edits/0/heat/8").content.startswith(b"\x89PNG")
    studio.call("POST", "results/0/curve", None, 422)
    studio.call("PATCH", "edits/0", {"rank": 1})
    studio.run("execute")
    points = studio.run("results/0/curve")["results"]["edits"][0]["curve"]
    assert [point["collateral_weight"] for point in points] == state["collateral_weight"]
    assert [point["collateral"] for point in points] == sorted(
        point["collateral"] for point in points
    )
    assert points[0]["loss"] > points[-1]["loss"]


def test_traces_are_those_of_the_check(studio: Any) -> None:
    studio.make_edit(context=(8,))
    studio.call("POST", "results/0/traces", None, 422)
    studio.call("PATCH", "edits/0", {"rank": 4})
    assert studio.run("execute")["results"]["edits"][0]["traces"] is None
    traces = studio.run("results/0/traces")["results"]["edits"][0]["traces"]
    assert 0 <= traces["low"] <= traces["share"] <= traces["high"] <= 1
    studio.call("POST", "save", {})
    checked = studio.path.with_name("checked.yaml")
    checked.write_text(studio.path.read_text() + "checks: [{measure: trace, at_most: 1}]\n")
    (row,) = editspec.check(checked, device="cpu").checks
    assert traces["share"] == row.value
    assert [traces["low"], traces["high"]] == row.facts["intervals"]["trace"]


def test_export_writes_the_patches(studio: Any) -> None:
    studio.make_edit()
    state = studio.run("export")
    assert state["failure"] is None
    assert state["saved"]
    patch = studio.path.parent / "build" / "edits" / "patches" / "01-edit-1.safetensors"
    assert "editspec.patch" in read_header(patch).metadata["editspec"]


SMALL = """\
version: 1
model: {family: stylegan2, weights: tiny.safetensors}
statistics: {samples: 16}
edits:
  - name: edit-1
    layer: layer6
    source: {latent: 5, mask: {box: [4, 4, 12, 12]}}
    target: {latent: 6, mask: {box: [2, 2, 10, 10]}}
    context: [{latent: 7, mask: {box: [4, 4, 12, 12]}}]
    solver: least-squares
"""


@pytest.mark.slow
def test_the_api_keeps_to_its_schema(
    make_studio: Make, make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    """No input that the schema allows, nor one that it does not, makes the server or its work fail.

    The model is tiny, so that all work is done, and done to its end.
    """
    save_file(make_tiny(size=16), tmp_path / "tiny.safetensors")
    studio = make_studio(SMALL)
    ended: list[dict[str, Any]] = []
    studio.jobs.listeners.append(ended.append)
    assert studio.run("execute")["results"]["current"]
    schema = schemathesis.openapi.from_dict(studio.call("GET", "openapi.json"))
    operations = [result.ok() for result in schema.exclude(path="/api/events").get_all_operations()]
    assert len(operations) > 20
    answers = {status for operation in operations for status in _fuzz(studio, SMALL, operation)}
    assert {200, 202, 404, 409, 422} <= answers
    done = [event for event in ended if event["event"] == "ended"]
    defects = [event for event in done if "defect" in (event["failure"] or {}).get("hint", "")]
    assert defects == []
    succeeded = {event["kind"] for event in done if event["failure"] is None}
    assert succeeded == {
        "execute",
        "search",
        "heat map",
        "curve",
        "traces",
        "preserve",
        "export",
    }


def _fuzz(studio: Any, text: str, operation: Any) -> set[int]:
    """Send made-up requests, half of them about what is there, and return the answers' statuses."""
    answers = set()

    @settings(
        max_examples=8,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), there=booleans())
    def send(case: Any, there: bool) -> None:
        studio.draft.change(text)
        body, query = case.body, dict(case.query or {})
        if there:
            if "number" in case.path_parameters:
                case.path_parameters["number"] = 0
            if isinstance(body, dict) and "revision" in body:
                body["revision"] = studio.draft.revision
            if "revision" in query:
                query["revision"] = studio.draft.revision
        headers = {
            name: value
            for name, value in (case.headers or {}).items()
            if name.lower() not in ("host", "authorization")
        }
        sent = {} if type(body).__name__ == "NotSet" else {"json": body}
        answer = studio.client.request(
            case.method, case.formatted_path, params=query or None, headers=headers, **sent
        )
        assert studio.jobs.wait(PATIENCE)
        assert answer.status_code < 500, (case, answer.text)
        documented = operation.definition.raw["responses"]
        assert str(answer.status_code) in documented, (case, answer.status_code)
        answers.add(answer.status_code)

    send()
    return answers


def test_a_network_of_others_is_run_where_that_is_allowed(
    make_studio: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = SPEC.parents[2] / "examples" / "dcgan"
    (tmp_path / "dcgan.py").write_text((example / "dcgan.py").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, _ = run_factory("dcgan:Generator", tmp_path, allow_code=True)
    save_file(module.state_dict(), "dcgan.safetensors")
    text = (example / "spec.yaml").read_text().replace("steps: 300", "steps: 5")
    with pytest.raises(EditError, match="is code that is not part of editspec"):
        make_studio(text).engine.base()
    with editspec.allow_code():
        studio = make_studio(text)
        name = studio.call("GET", "spec")["model"]["name"]
        before = studio.call("GET", f"images/{name}/1/3").content
        state = studio.run("execute")
        assert studio.jobs.failure is None
        after = studio.call("GET", f"images/{state['results']['after']}/1/3").content
        assert before != after
        (edit,) = said("build", "edits.yaml", "-o", "out")["edits"]
        assert edit["digest"] == state["results"]["edits"][0]["digest"]
        # What was not opened is not run, whatever is allowed.
        other = text.replace("dcgan:Generator", "os:system")
        problems = studio.call("PUT", "spec", {"text": other})["problems"]
        assert any(
            "runs no network that was not opened" in problem["message"] for problem in problems
        )
