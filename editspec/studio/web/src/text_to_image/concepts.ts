// The concepts of an edit, as a form has them and as a spec writes them.

import { fileOf, filled, listOf, recordOf, wordsOf, type Given } from "../forms/changes";

export type Kind = "replace" | "erase" | "shift";

export interface Addend extends Given {
  prompt: string;
  by: number;
}

export interface Concept {
  kind: Kind;
  /** The prompt whose value is taken. */
  source: string;
  add: Addend[];
  target: string;
  /** The tokens that are meant; empty for those that the numerics take by default. */
  tokens: string;
  /** How much it counts among others; null where the spec does not say it. */
  weight: number | null;
}

const NOTHING: Concept = { kind: "replace", source: "", add: [], target: "", tokens: "", weight: null };

/** The concepts of an edit; one that says nothing yet where it has none. */
export function conceptsOf(given: Given): Concept[] {
  if (fileOf(given["pairs"])) return [];
  const pairs = listOf(given["pairs"]);
  return pairs.length ? pairs.map((pair) => conceptOf(recordOf(pair))) : [conceptOf(given)];
}

function conceptOf(side: Given): Concept {
  const [source, target] = [recordOf(side["source"]), recordOf(side["target"])];
  const add = listOf(source["add"]).map(recordOf).map((each) => ({ prompt: wordsOf(each["prompt"]), by: Number(each["by"] ?? 0) }));
  const prompt = wordsOf(source["prompt"]);
  const kind = add.length ? "shift" : source["prompt"] === "" ? "erase" : "replace";
  const weight = side["weight"];
  return {
    kind, source: prompt, add, target: wordsOf(target["prompt"]), tokens: wordsOf(target["tokens"]),
    weight: typeof weight === "number" ? weight : null,
  };
}

function sourceOf({ kind, source, add, target }: Concept): Given | null {
  if (kind === "erase") return { prompt: "" };
  // What is moved stays itself besides.
  if (kind === "shift") return filled({ prompt: source || target, add: add.map(filled) });
  return filled({ prompt: source });
}

/** The fields of an edit that hold its concepts: source and target of one, pairs of several. */
export function fieldsOf(given: Given, concepts: Concept[]): Given {
  const sides = concepts.map((each) => ({ source: sourceOf(each), target: filled({ prompt: each.target, tokens: each.tokens }) }));
  if (sides.length === 1 && !("pairs" in given)) return sides[0]!;
  const pairs = sides.map((side, index) => filled({ ...side, weight: concepts[index]!.weight }) ?? {});
  return { source: null, target: null, pairs };
}

export function anotherConcept(concepts: Concept[]): Concept {
  const last = concepts.at(-1);
  return last ? { ...NOTHING, kind: last.kind === "shift" ? "replace" : last.kind, source: last.source, tokens: last.tokens } : NOTHING;
}

/** A concept of another kind, which keeps what both have. */
export function turned(concept: Concept, kind: Kind): Concept {
  if (kind === "shift") return { ...concept, kind, add: concept.add.length ? concept.add : [{ prompt: "", by: 0.3 }] };
  return { ...concept, kind, add: [] };
}

/** What is still to be said of the concepts; null where nothing is. */
export function nextOf(given: Given): string | null {
  for (const { kind, source, target } of conceptsOf(given)) {
    if (!target) return "Step 1. Write the concept that is edited.";
    if (kind === "replace" && !source) return "Step 2. Write what it is to be answered like, or choose Erase.";
  }
  return null;
}
