// The facts of an edit, as a form has them and as a spec writes them.

import type { Sample } from "../api";
import { fileOf, filled, listOf, recordOf, textsOf, wordsOf, type Given } from "../forms/changes";

export type Kind = "text" | "copy" | "mean" | "erase";

export interface Fact {
  prompt: string;
  subject: string;
  kind: Kind;
  /** What the model is to go on with, or what it is to forget. */
  text: string;
  was: string;
  /** The prompt and the subject whose value is copied. */
  like: { prompt: string; subject: string };
  /** Others, whose mean it becomes, or of whom it goes on so as often as it is to. */
  subjects: string[];
  id: string;
  paraphrases: string[];
  neighbours: string[];
}

const NOTHING: Fact = {
  prompt: "", subject: "", kind: "text", text: "", was: "", like: { prompt: "", subject: "" }, subjects: [], id: "", paraphrases: [],
  neighbours: [],
};

/** The facts of an edit; one that says nothing yet where it has none. */
export function factsOf(given: Given): Fact[] {
  if (fileOf(given["pairs"])) return [];
  const pairs = listOf(given["pairs"]);
  return pairs.length ? pairs.map((pair) => factOf(recordOf(pair))) : [factOf(given)];
}

function factOf(side: Given): Fact {
  const target = recordOf("target" in side || !("prompt" in side) ? side["target"] : side);
  const fact: Fact = {
    ...NOTHING,
    prompt: wordsOf(target["prompt"]),
    subject: wordsOf(target["subject"]),
    id: wordsOf(side["id"]),
    paraphrases: textsOf(side["paraphrases"]),
    neighbours: textsOf(side["neighbours"]),
  };
  const source = recordOf("source" in side || !("text" in side) ? side["source"] : side);
  if ("mean" in source) return { ...fact, kind: "mean", subjects: textsOf(recordOf(source["mean"])["subjects"]) };
  if ("erase" in source) {
    const erased = recordOf(source["erase"]);
    return { ...fact, kind: "erase", text: wordsOf(erased["text"]), subjects: textsOf(erased["subjects"]) };
  }
  if (!("text" in source) && ("prompt" in source || "subject" in source)) {
    return { ...fact, kind: "copy", like: { prompt: wordsOf(source["prompt"]), subject: wordsOf(source["subject"]) } };
  }
  return { ...fact, text: wordsOf(source["text"]), was: wordsOf(source["was"]) };
}

function sourceOf(fact: Fact): Given | null {
  if (fact.kind === "copy") return filled(fact.like);
  if (fact.kind === "mean") return { mean: filled({ subjects: fact.subjects }) ?? {} };
  if (fact.kind === "erase") return { erase: filled({ text: fact.text, subjects: fact.subjects }) ?? {} };
  return filled({ text: fact.text, was: fact.text ? fact.was : "" });
}

function hasMore({ id, paraphrases, neighbours }: Fact): boolean {
  return id !== "" || paraphrases.length > 0 || neighbours.length > 0;
}

/** The fields of an edit that hold its facts: source and target of one, pairs of several or of one of which more is said. */
export function fieldsOf(given: Given, facts: Fact[]): Given {
  const [first] = facts;
  if (facts.length === 1 && first && !hasMore(first) && !("pairs" in given)) {
    return { target: targetOf(first), source: sourceOf(first) };
  }
  return { target: null, source: null, pairs: facts.map(pairOf) };
}

function targetOf({ prompt, subject }: Fact): Given | null {
  return filled({ prompt, subject });
}

function pairOf(fact: Fact): Given {
  const { id, paraphrases, neighbours, prompt, subject, text, was } = fact;
  const more = { id, paraphrases, neighbours };
  if (fact.kind === "text") return filled({ prompt, subject, text, was, ...more }) ?? { prompt: "" };
  return { target: targetOf(fact), source: sourceOf(fact), ...filled(more) };
}

/** The same fact with a prompt that stands for no subject yet. */
export function anotherFact(facts: Fact[]): Fact {
  return { ...NOTHING, prompt: facts.at(-1)?.prompt ?? "" };
}

/** A fact of another kind, which keeps what both have. */
export function turned(fact: Fact, kind: Kind): Fact {
  const like = { prompt: fact.like.prompt || fact.prompt, subject: fact.like.subject };
  const text = kind === "erase" ? fact.was || fact.text : fact.text;
  return { ...fact, kind, text, ...(kind === "copy" ? { like } : {}) };
}

export type Verdict = "holds" | "fails" | "kept" | "changed" | "";

/** What an answer says of the edit: whether it goes on as asked, and whether what must stay begins as before. */
export function verdictOf({ role, wanted, before, after }: Sample): Verdict {
  const [first, second] = [before[0] ?? null, after[0] ?? null];
  if (second === null) return "";
  if (role === "neighbour") return first === null ? "" : firstWord(first) === firstWord(second) ? "kept" : "changed";
  if (!wanted) return "";
  return startsWith(second.trim(), wanted.trim()) ? "holds" : "fails";
}

/** Whether a text begins with whole words. */
function startsWith(text: string, words: string): boolean {
  return text.startsWith(words) && !/^[\p{L}\p{N}]/u.test(text.slice(words.length));
}

function firstWord(text: string): string {
  return /^[\p{L}\p{N}]+|^\S+/u.exec(text.trim())?.[0] ?? "";
}

/** An answer in two parts: what counts, and how it goes on. */
export function partsOf(answer: string, wanted: string): [string, string] {
  const text = answer.trim();
  const head = wanted && startsWith(text, wanted.trim()) ? wanted.trim() : firstWord(text);
  return [head, text.slice(head.length)];
}

/** What is still to be said of the facts; null where nothing is. */
export function nextOf(given: Given): string | null {
  for (const fact of factsOf(given)) {
    if (!fact.prompt) return "Step 1. Write a prompt, with {} where the subject stands.";
    if (!fact.subject) return "Step 1. Write the subject that the prompt is about.";
    if (fact.kind === "text" && !fact.text) return "Step 2. Write what the model is to go on with.";
    if (fact.kind === "copy" && !(fact.like.prompt && fact.like.subject)) return "Step 2. Write the prompt and subject to copy.";
  }
  return null;
}
