// Fields of an edit as the text of the spec has them, and what changes in them.

export type Given = Record<string, unknown>;

export function recordOf(value: unknown): Given {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Given) : {};
}

export function wordsOf(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}

export function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

export function textsOf(value: unknown): string[] {
  return listOf(value).map(wordsOf);
}

/** The file whose rows stand for a list; empty where there is none. */
export function fileOf(value: unknown): string {
  return wordsOf(recordOf(value)["file"]);
}

/** What differs from what is given; null takes a field out. Empty where nothing does. */
export function changesOf(given: Given, wanted: Given): Given {
  const found: Given = {};
  for (const [name, value] of Object.entries(wanted)) {
    if (JSON.stringify(given[name] ?? null) !== JSON.stringify(value ?? null)) found[name] = value ?? null;
  }
  return found;
}

/** A mapping without what is empty; null where nothing is left. */
export function filled(given: Given): Given | null {
  const kept = Object.entries(given).filter(([, value]) => value !== "" && value !== null && !(Array.isArray(value) && value.length === 0));
  return kept.length ? Object.fromEntries(kept) : null;
}

/** The lines of a field, without those that are empty. */
export function linesOf(text: string): string[] {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

export function replaced<T>(list: readonly T[], at: number, value: T): T[] {
  return list.map((each, index) => (index === at ? value : each));
}

/** A list without one of its entries; null where nothing is left, as a spec has no empty lists. */
export function without<T>(list: readonly T[], at: number): T[] | null {
  const kept = list.filter((_, index) => index !== at);
  return kept.length ? kept : null;
}
