"""The studio on edits of other specs: they are shown, saved as they are, and not left by a name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from editspec_runtime.io.cache import default_cache
from tests.commands import git
from tests.studio.conftest import Studio

Make = Callable[..., Studio]

LIBRARY = """\
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
parameters:
  from: {type: integer}
  where: {type: mask, default: {box: [8, 8, 20, 24]}}
edits:
  - name: paste
    layer: layer7
    rank: 3
    source: {latent: {parameter: from}, mask: {parameter: where}}
    target: {latent: 31, mask: {box: [8, 8, 20, 24]}}
    solver: least-squares
"""

SPEC = """\
# Towers.
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
edits:
  - use: "libs/towers.yaml#paste"   # of a library
    name: one
    with: {from: 12}
"""


def write(path: Path) -> None:
    (path.parent / "libs").mkdir()
    (path.parent / "libs" / "towers.yaml").write_text(LIBRARY)
    path.write_text(SPEC)


def test_a_used_edit_is_shown_with_its_values_and_saved_as_it_is(
    make_studio: Make, tmp_path: Path
) -> None:
    path = tmp_path / "spec.yaml"
    write(path)
    studio = make_studio(name=str(path.relative_to(tmp_path)))
    (edit,) = studio.call("GET", "spec")["edits"]
    assert (edit["name"], edit["layer"], edit["rank"]) == ("one", "layer7", 3)
    assert (edit["source"]["latent"], edit["target"]["latent"]) == (12, 31)
    assert (edit["used"], edit["note"]) == ("libs/towers.yaml#paste", "")
    assert studio.call("GET", "spec")["problems"] == []
    refused = studio.call("PATCH", "edits/0", {"rank": 4}, expect=422)
    assert "libs/towers.yaml#paste" in refused["message"]
    studio.call("POST", "edits/0/preserve", {}, expect=422)
    studio.call("PATCH", "edits/0", {"name": "two"})
    studio.call("POST", "save", {})
    assert path.read_text() == SPEC.replace("name: one", "name: two")


def test_a_use_leads_to_nothing_outside_of_the_project(make_studio: Make, tmp_path: Path) -> None:
    path = tmp_path / "project" / "spec.yaml"
    path.parent.mkdir()
    write(path)
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "towers.yaml").write_text(LIBRARY)
    (tmp_path / "secret.png").write_bytes(b"")
    studio = make_studio(name=str(path.relative_to(tmp_path)))

    def problems(text: str) -> list[tuple[str, str]]:
        state = studio.call("PUT", "spec", {"text": text})
        return [(each["code"].split()[0], each["path"]) for each in state["problems"]]

    assert problems(SPEC.replace("libs/", "../libs/")) == [("E601", "edits[0].use")]
    git = SPEC.replace("libs/towers.yaml", "git+file:///nowhere@v1")
    assert problems(git) == [("E601", "edits[0].use")]
    outside = SPEC.replace("{from: 12}", "{from: 12, where: ../secret.png}")
    assert problems(outside) == [("E601", "edits[0].with.where")]
    assert problems(SPEC) == []


def test_a_library_of_the_project_leads_to_nothing_outside_of_it(
    make_studio: Make, tmp_path: Path
) -> None:
    path = tmp_path / "project" / "spec.yaml"
    path.parent.mkdir()
    write(path)
    (tmp_path / "towers.yaml").write_text(LIBRARY)
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "towers.yaml").write_text(LIBRARY)
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Recipes")
    git(repository, "tag", "v1")
    studio = make_studio(name=str(path.relative_to(tmp_path)))
    used = f"git+file://{repository}//towers.yaml@v1"
    for name in ("../../towers.yaml", used):
        # Such as the spec itself, once the page has saved it.
        (path.parent / "libs" / "more.yaml").write_text(SPEC.replace("libs/towers.yaml", name))
        text = SPEC.replace("libs/towers.yaml#paste", "libs/more.yaml#one")
        text = text.replace("    with: {from: 12}\n", "")
        state = studio.call("PUT", "spec", {"text": text})
        found = [(each["code"].split()[0], each["path"]) for each in state["problems"]]
        assert found == [("E601", "edits[0].use")], name
    assert not any(path.is_dir() for path in default_cache().root.glob("recipes/*"))
    studio.call("PUT", "spec", {"text": SPEC})
    assert studio.call("GET", "spec")["problems"] == []


def test_what_a_spec_used_when_it_was_opened_may_lie_elsewhere(
    make_studio: Make, tmp_path: Path
) -> None:
    path = tmp_path / "project" / "spec.yaml"
    path.parent.mkdir()
    write(path)
    (path.parent / "libs").rename(tmp_path / "libs")
    path.write_text(SPEC.replace("libs/", "../libs/"))
    studio = make_studio(name=str(path.relative_to(tmp_path)))
    state = studio.call("GET", "spec")
    assert state["problems"] == []
    assert state["edits"][0]["source"]["latent"] == 12


def test_masks_from_git_are_drawn(make_studio: Make, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    write(path)
    repository = tmp_path / "libs"
    image = Image.new("L", (64, 64))
    image.paste(255, (8, 8, 20, 24))
    image.save(repository / "mask.png")
    text = LIBRARY.replace("{box: [8, 8, 20, 24]}}\nedits", "mask.png}\nedits")
    (repository / "towers.yaml").write_text(text)
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Recipes")
    git(repository, "tag", "v1")
    path.write_text(SPEC.replace("libs/towers.yaml", f"git+file://{repository}//towers.yaml@v1"))
    studio = make_studio(name="spec.yaml")
    state = studio.call("GET", "spec")
    assert state["problems"] == []
    assert state["edits"][0]["source"]["latent"] == 12
    shown = {"mask": state["edits"][0]["source"]["mask"]}
    drawn = studio.client.get("/api/edits/0/masks/source", params=shown)
    assert drawn.status_code == 200
    mask = Image.open(io.BytesIO(drawn.content))
    assert mask.getbbox() is not None
