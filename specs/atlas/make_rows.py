"""Write the rows of the specs of Atlas: a hundred people move, and the others stay where they are.

python specs/atlas/make_rows.py
"""

import json
import random
from pathlib import Path
from typing import Any

from editspec.worlds.atlas.world import CITIES, RELATIONS, KnownFact, facts

FOLDER = Path(__file__).parent
COUNT, PART = 100, 10
NEIGHBOURS = 3


def main() -> None:
    """Write the files of rows beside this file."""
    homes = [fact for fact in facts() if fact.relation == "city"]
    moving, staying = homes[:COUNT], homes[COUNT:]
    rows = make_rows(moving, staying)
    write_rows("movers.jsonl", rows)
    for part in range(COUNT // PART):
        write_rows(f"tenths/{part + 1}.jsonl", rows[part * PART : (part + 1) * PART])
    prompt = RELATIONS["city"].phrasings[0]
    stay = [{"prompt": prompt, "subject": fact.subject} for fact in staying]
    write_rows("stayers.jsonl", stay)
    (FOLDER / "bench" / "hundred").mkdir(parents=True, exist_ok=True)
    (FOLDER / "bench" / "hundred" / "rome.yaml").write_text(write_rome(rows))


def make_rows(moving: list[KnownFact], staying: list[KnownFact]) -> list[dict[str, Any]]:
    """Make a row of each fact, with another city, and with people who stay as neighbours."""
    chance = random.Random(5)
    first, *others = RELATIONS["city"].phrasings
    rows = []
    for fact in moving:
        surname = fact.subject.split()[-1]
        near = [each.subject for each in staying if each.subject.split()[-1] == surname]
        far = [each.subject for each in chance.sample(staying, NEIGHBOURS)]
        rows.append(
            {
                "id": fact.subject,
                "prompt": first,
                "subject": fact.subject,
                "text": chance.choice([city for city in CITIES if city != fact.answer]),
                "was": fact.answer,
                "paraphrases": others,
                "neighbours": sorted({*near, *far}),
            }
        )
    return rows


def write_rome(rows: list[dict[str, Any]]) -> str:
    """Write the spec of ROME, which takes one fact, with an edit for each row."""
    lines = [
        "# Made by make_rows.py: ROME takes one fact, so that there is an edit for each.",
        "version: 1",
        "model: {family: transformer, weights: builtin:atlas}",
        "compatibility: rome-2022",
        "edits:",
    ]
    for number, row in enumerate(rows, start=1):
        lines += [
            f"  - name: mover-{number}",
            "    layer: layer1",
            f'    target: {{prompt: "{row["prompt"]}", subject: {row["subject"]}}}',
            f"    source: {{text: {row['text']}, was: {row['was']}}}",
            "    solver: closed-form",
        ]
    return "\n".join(lines) + "\n"


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
