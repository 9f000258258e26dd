"""The report of a build of texts, the table of `render`, and where the key of an edit matches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from PIL import Image

from editspec.engine.session import BuildSession
from editspec.modalities.text.engine import ENGINE
from editspec.worlds.atlas import WORLD
from editspec_compiler.modalities.text.tokens import open_tokenizer
from editspec_runtime.core.progress import no_progress
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.modalities.text.batches import pad_texts
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DANA, QUIN = "Dana Hazel Ashdown", "Quin Oak Ashdown"
SHORT = {"context": {"prefixes": 2, "length": 3}, "optimise": {"evaluations": 12, "clamp": 0.6}}


def edit(name: str, subject: str, **fields: Any) -> dict[str, Any]:
    place = {"prompt": "{} lives in", "subject": subject}
    return {
        "name": name,
        "layer": "layer1",
        "target": place,
        "source": {"text": "Lumen"},
        **SHORT,
        **fields,
    }


SPEC = {
    "version": 1,
    "model": {"family": "transformer", "weights": "builtin:atlas"},
    "statistics": {"tokens": 4000},
    "edits": [
        edit("moves", DANA),
        # So short a shift that the answer stays.
        edit("weak", QUIN, optimise={"evaluations": 12, "clamp": 0.001}),
    ],
    "checks": [
        {"measure": "paraphrase", "edit": "moves", "prompts": ["The home of {} is in"]}
        | {"at_least": 0, "name": "again"},
        {"measure": "specificity", "edit": "moves", "at_least": 0}
        | {"facts": [{"prompt": "{} works as a", "subject": DANA}]},
    ],
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a build and its report; the cache of this module."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITSPEC_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        Path("spec.yaml").write_text(yaml.safe_dump(SPEC))
        said("build", "spec.yaml", "-o", "out", "--report")
        yield folder


@pytest.fixture(autouse=True)
def within(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("EDITSPEC_CACHE", str(here / "cache"))


def rows_of(html: str) -> list[list[str]]:
    """The rows of the tables of completions, without marks."""
    tables = re.findall(r'<table class="completions">.*?</table>', html, re.S)
    rows = [row for table in tables for row in re.findall(r"<tr>\n(.*?)</tr>", table, re.S)]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def test_the_page_shows_what_is_said_before_and_after() -> None:
    rows = rows_of(Path("out/report.html").read_text())
    said_of = {row[0]: row for row in rows[:3]}
    own = said_of[f"{DANA} lives in"]
    assert own[1].startswith("Belmar")
    assert own[2].startswith("Lumen")
    assert own[3] == "Lumen yes"
    assert said_of[f"The home of {DANA} is in"][3].startswith("Lumen")
    job = said_of[f"{DANA} works as a"]
    assert job[3] == "as before yes"
    assert job[1].split(".")[0] == job[2].split(".")[0]
    # An edit that does not reach its aim is shown as one.
    weak = rows[3]
    assert weak[0] == f"{QUIN} lives in"
    assert weak[1].split(".")[0] == weak[2].split(".")[0] != "Lumen"
    assert weak[3] == "Lumen no"
    assert "1 of 1 prompts are not as they are wanted." in Path("out/report.html").read_text()
    # Behind the edits, all of them together.
    assert [row[0] for row in rows[4:]] == [row[0] for row in rows[:4]]


def test_the_key_is_lit_as_much_as_the_patch_changes_a_token() -> None:
    """The share of a token is that of its change by the patch, in the change of the key's value."""
    session = BuildSession.of("spec.yaml", "cpu", no_progress)
    matches = ENGINE.report_texts(session).describe(
        session, 0, session.base_model, session.base_model
    )
    assert matches.layer == "layer1"
    patch = read_patch(next(Path("out/patches").glob("01-*")))
    (name,) = patch.parameters
    model: Any = make_model(
        "transformer", read_weights(WORLD.weights), origin=Origin(WORLD.weights)
    )
    tokenizer = open_tokenizer(WORLD.weights, None)
    delta = patch.delta(name).double()
    bare = (*tokenizer.head, *tokenizer.encode(f"{DANA} lives in").tokens)
    shown = matches.matched["prompts of the spec"]
    with torch.no_grad():
        keys = model.trace("layer1", pad_texts([bare])).key[0].double()
    changes = keys @ delta.mT
    direction = changes[3] / changes[3].norm()
    along = changes @ direction
    found = torch.tensor([token.share for token in shown[0]])
    assert [token.text.strip() for token in shown[0]][1:4] == DANA.split()
    torch.testing.assert_close(
        found[1:] / found[3], (along[1:] / along[3]).float(), atol=2e-3, rtol=1e-2
    )
    assert found[0] == 0  # which C has no part of
    assert found[3] > 0.6
    assert found[4:].abs().max() < 0.3
    # In the sample, the best match comes first.
    best = [max(t.share for t in text) for text in matches.matched[list(matches.matched)[1]]]
    assert best == sorted(best, reverse=True)


def test_the_page_needs_nothing_else(browser: Browser) -> None:
    page, wrong = browser.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.goto(Path("out/report.html").resolve().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".tokens").count() >= 4
    assert page.locator(".tokens .dark").first.inner_text().strip() == "Ashdown"
    assert not wrong
    page.close()


def test_render_draws_keys_and_writes_tables() -> None:
    assert said("render", "spec.yaml", "-o", "key.png", "--key", "--count", 3) == {"out": "key.png"}
    with Image.open("key.png") as picture:
        colours = picture.convert("RGB").getcolors(2**20)
    reds = sum(count for count, (r, g, b) in colours if r > 120 and g < 90 and b < 60)  # type: ignore[misc]
    assert reds > 500
    rows = said("render", "spec.yaml", "-o", "table.md")["rows"]
    assert [row["wanted"] for row in rows] == ["Lumen", "Lumen", "as before", "Lumen"]
    for arguments, words in (
        (("-o", "x.png"), "a name that ends in .md"),
        (("-o", "x.md", "--key"), "a name for a table"),
        (("-o", "x.png", "--value"), "does not draw images"),
    ):
        result = run("render", "spec.yaml", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
