"""The page of a build, opened in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from editspec.charts.losses import POINTS, draw_losses
from editspec.charts.ticks import pick_ticks
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.pictures import heat
from editspec_runtime.core.progress import no_progress
from tests.commands import run, said

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LAYER = {"method": "layer", "steps": 5, "learning_rate": 0.001}


def edit(name: str, layer: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "layer": layer,
        "source": {"latent": 5, "mask": {"box": [4, 4, 12, 12]}},
        "target": {"latent": 6, "mask": {"box": [2, 2, 10, 10]}},
        "solver": {"method": "projected-gradient", "steps": 12, "project_every": 1},
    } | more


def write(*edits: dict[str, Any], name: str = "spec.yaml", **model: Any) -> Path:
    weights = model or {"family": "stylegan2", "weights": "tiny.safetensors"}
    data = {"version": 1, "model": weights, "statistics": {"samples": 24}, "edits": list(edits)}
    Path(name).write_text(yaml.safe_dump(data, sort_keys=False))
    return Path(name)


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    return tmp_path


def opened(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """A page, and all that is wrong with it: what it says on the console, asks for, or cannot
    show.
    """
    page, wrong = browser.new_page(**options), []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error.message}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda r: (
            wrong.append(f"request: {r.url}") if not r.url.startswith(("data:", "file:")) else None
        ),
    )
    page.goto(path.resolve().as_uri())
    sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt])")
    wrong += [f"image: {alt}" for width, alt in sizes if not width or not alt]
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return page, [*wrong, *(["too wide"] if wide else [])]


LABELS_UNDER_PICTURES = """
[...document.querySelectorAll('.grid .label')].filter(each => each.scrollWidth > each.clientWidth)
.length"""
"""The number of labels of rows that are wider than their place, and end under a picture."""


def test_the_page_shows_everything_and_asks_for_nothing(browser: Browser) -> None:
    write(
        edit("one", "layer6", rank=2),
        edit("two", "layer5", solver={"method": "direct", "steps": 12}),
        edit("three", "layer6", solver=LAYER),
    )
    assert said("build", "spec.yaml", "-o", "out", "--report")["report"] == "out/report.html"
    paper = {}
    for scheme, width in (("light", 1200), ("dark", 1200), ("light", 390)):
        page, wrong = opened(
            browser,
            Path("out/report.html"),
            color_scheme=scheme,
            viewport={"width": width, "height": 800},
        )
        assert wrong == []
        assert page.evaluate(LABELS_UNDER_PICTURES) == 0
        paper[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper["light"] != paper["dark"]
    assert page.locator("h1").inner_text() == "spec.yaml"
    assert page.locator("h2").all_inner_texts() == [
        "Plan",
        "one",
        "two",
        "three",
        "All edits together",
        "The build",
    ]
    # Per edit before, key, after; before, after; before, elsewhere, after. Then before, after.
    assert page.locator("img").count() == 3 * (3 + 2 + 3) * 8 + 2 * 8
    assert page.locator("svg polyline").count() == 3
    assert page.locator("#plan tbody").first.locator("tr").count() == 3
    assert "one,\nthree" in page.locator("#plan tbody").nth(1).inner_text()  # both change layer6
    text = page.locator("body").inner_text()
    for entry in json.loads(Path("out/manifest.json").read_text())["edits"]:
        assert all(entry[name] in text for name in ("digest", "parent", "result", "edit"))
    # Every link leads somewhere, and every heading is of a section.
    for link in page.locator("nav a").all():
        assert page.locator(str(link.get_attribute("href"))).count() == 1
    page.close()


def test_what_is_wrong_with_a_page_is_noticed(browser: Browser) -> None:
    write(edit("one", "layer6"))
    said("build", "spec.yaml", "-o", "out", "--report")
    sound = Path("out/report.html").read_text()
    broken = re.sub(
        r'src="data:image/png;base64,[^"]{40}', 'src="data:image/png;base64,', sound, count=1
    )
    remote = sound.replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt="x"></main>')
    script = sound.replace("</main>", "<script>alert(1)</script></main>")
    long = sound.replace("</main>", '<div style="width: 3000px">x</div></main>')
    for changed, what in (
        (broken, "image: "),
        (remote, "console: "),
        (script, "console: "),
        (long, "too wide"),
    ):
        assert changed != sound
        Path("changed.html").write_text(changed)
        page, wrong = opened(browser, Path("changed.html"))
        assert any(line.startswith(what) for line in wrong)
        page.close()


CODE = """
from torch import nn

class Net(nn.Module):
    latent_shape = (4, 6, 6)

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(4, 5, 3, padding=1)
        self.bend = nn.LeakyReLU(0.2)
        self.two = nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, latents):
        return self.two(self.bend(self.one(latents)))
"""


def test_names_are_text_whatever_they_look_like(browser: Browser) -> None:
    # Names of edits are words; those of layers, masks and the spec itself are anything.
    layer, mask = "<script>alert('layer')</script>", "<img src=x onerror=alert('mask')>.png"
    Path("net.py").write_text(CODE)
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = namespace["Net"]()
    save_file(
        {name: tensor.detach() for name, tensor in module.state_dict().items()}, "net.safetensors"
    )
    image = Image.new("L", (6, 6))
    image.paste(255, (0, 0, 3, 3))
    image.save(mask)
    spec = write(
        edit(
            "one",
            layer,
            source={"latent": 5, "mask": mask},
            target={"latent": 6, "mask": mask},
            solver={"method": "direct", "steps": 5, "learning_rate": 0.001},
        ),
        name="<img src=x onerror=alert('spec')>.yaml",
        family="torch",
        module="net:Net",
        weights="net.safetensors",
        layers={layer: {"key": "two", "value": "two"}},
    )
    said("build", spec, "-o", "out", "--report", "--allow-code")
    image.putpixel((4, 4), 255)
    image.save(mask)
    said("build", spec, "-o", "out", "--report", "--allow-code")
    page, wrong = opened(browser, Path("out/report.html"))
    assert wrong == []
    assert page.locator("h1").inner_text() == spec.name
    text = page.locator("#plan").inner_text()
    assert layer in text
    assert f"{mask}: its content" in text
    assert page.locator("script").count() == 0
    page.close()


@pytest.mark.slow
def test_the_same_build_gives_the_same_page(program: Path, tmp_path: Path) -> None:
    write(edit("one", "layer6"))
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    said("build", "spec.yaml", "-o", "out", "--report")
    command = [program, "build", "spec.yaml", "-o", "x", "--report"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path / "elsewhere")
    page = Path("out/report.html").read_text()
    assert page == Path("elsewhere/x/report.html").read_text()
    assert str(tmp_path) not in page
    write(edit("one", "layer6", rank=2))
    said("build", "spec.yaml", "-o", "out", "--report")
    assert "rank: 1 -&gt; 2" in Path("out/report.html").read_text() != page


def test_the_traces_of_a_report_are_those_of_the_check() -> None:
    solver = {"method": "direct", "steps": 60, "learning_rate": 0.2}
    spec = write(edit("one", "layer5", rank=4, solver=solver))
    spec.write_text(spec.read_text() + "checks: [{measure: trace, at_most: 1}]\n")
    said("build", spec, "-o", "out", "--report")
    (row,) = said("check", spec, "-o", "out")["checks"]
    low, high = row["facts"]["intervals"]["trace"]
    text = Path("out/report.html").read_text()
    assert 0 < row["value"] < 1
    assert f"{row['value']:.0%} of 64 images" in text
    assert f"({low:.0%} to {high:.0%} with" in text
    for each in row["facts"]["worst"]:
        assert f"one: image {each['image']}, elsewhere" in text


def test_a_report_belongs_to_the_build_folder() -> None:
    write(edit("one", "layer6"))
    said("build", "spec.yaml", "-o", "out")
    assert not Path("out/report.html").exists()
    Path("out/report.html").write_text("mine")
    refused = run("build", "spec.yaml", "-o", "out", "--report")
    assert (refused.exit_code, "in the way" in refused.stderr) == (1, True)
    assert Path("out/report.html").read_text() == "mine"
    said("build", "spec.yaml", "-o", "out")
    assert Path("out/report.html").read_text() == "mine"
    Path("out/report.html").unlink()
    said("build", "spec.yaml", "-o", "out", "--report")
    assert "report.html" in json.loads(Path("out/manifest.json").read_text())["files"]
    assert "up to date" in Path("out/report.html").read_text()
    # One that is not asked for again would tell of another build.
    said("build", "spec.yaml", "-o", "out")
    assert not Path("out/report.html").exists()


@pytest.mark.parametrize(
    "solver",
    [
        {"method": "least-squares"},
        {"method": "low-rank", "steps": 6, "project_every": 3},
        LAYER,
        {"method": "all-weights", "steps": 3, "learning_rate": 0.001},
        {"method": "direct", "steps": 4},
    ],
)
def test_curves_are_those_of_the_solver(solver: dict[str, Any]) -> None:
    write(edit("one", "layer6", solver=solver))
    (entry,) = said("build", "spec.yaml", "-o", "out", "--report")["edits"]
    session = BuildSession.of("spec.yaml", "cpu", no_progress)
    before = generator_of(session)
    rule = session.edit(0).rule
    losses = session.losses(rule, before)
    page = Path("out/report.html").read_text()
    if solver["method"] == "least-squares":
        assert losses == []
        assert "least-squares takes no steps" in page
        return
    assert [step for step, _ in losses] == sorted({step for step, _ in losses})
    assert losses[-1][0] == solver["steps"]
    if (
        solver["method"] != "low-rank"
    ):  # which minimises the squared loss, and reports the plain one
        assert min(loss for _, loss in losses) == pytest.approx(entry["loss"], rel=1e-4)
    assert page.count("<polyline") == 1


def test_curves_are_no_part_of_a_patch(own_cache: Path) -> None:
    write(edit("one", "layer6", solver={"method": "direct", "steps": 4}))
    (entry,) = said("build", "spec.yaml", "-o", "out", "--report")["edits"]
    assert Path("out/report.html").read_text().count("<polyline") == 1
    # What the curves are drawn from lies in the cache alone: without it there is the same patch and
    # no curve.
    patch = Path(entry["patch"]).read_bytes()
    shutil.rmtree(own_cache / "losses")
    said("build", "spec.yaml", "-o", "out", "--report")
    page = Path("out/report.html").read_text()
    assert page.count("<polyline") == 0
    assert "or the edit was solved elsewhere" in page
    assert Path(entry["patch"]).read_bytes() == patch


def test_heat_colours_where_it_is_and_leaves_the_image_visible() -> None:
    images = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2).expand(1, 3, 2, 2)
    cold, hot = (heat(images, torch.full((1, 1, 1), light)) for light in (0.0, 1.0))
    assert cold[:, 0].equal(cold[:, 2])  # grey
    assert (hot[:, 0] > hot[:, 2] + 0.5).all()  # yellow
    assert all(
        (picture[..., 1] > picture[..., 0]).all() for picture in (cold, hot)
    )  # dark and bright still differ
    assert cold.abs().max() <= 1
    assert hot.abs().max() <= 1


def test_curves_keep_their_ends_and_their_scale() -> None:
    assert draw_losses([(0, 0.5)]) is None
    curve = draw_losses([(step, 0.5 - step / 10_000) for step in range(2001)])
    assert curve is not None
    points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
    assert len(points) <= POINTS + 2
    assert points[0][0] == 56
    assert points[-1] == curve.best  # the lowest is the last here, at the right end
    assert curve.summary == "From 0.5 at step 0 to 0.3 at step 2000, the lowest of 2000 steps."
    assert [tick.text for tick in curve.losses] == ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]
    for largest in (1e-7, 0.003, 0.5, 1, 7, 2001):
        ticks = [float(text) for text in pick_ticks(largest)]
        assert ticks[-2] < largest <= ticks[-1] * (1 + 1e-9)
        assert (ticks[0], len(set(ticks))) == (0, len(ticks))
        assert 4 <= len(ticks) <= 10
    assert pick_ticks(0) == ["0", "1"]
