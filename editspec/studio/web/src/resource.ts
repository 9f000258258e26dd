// Values that are loaded when what they depend on changes.

import { effect, signal, type ReadonlySignal } from "@preact/signals";

export interface Resource<T> {
  /** What was loaded last; the one before stays until the next has come. */
  value: ReadonlySignal<T | null>;
  /** The key of `value`. */
  key: ReadonlySignal<string | null>;
  /** Load nothing more. */
  end: () => void;
}

/**
 * Load a value for a key, anew whenever the key changes. The answer for a key that is no longer asked for is dropped, and a
 * refusal gives null.
 */
export function resource<T>(keyOf: () => string | null, load: (key: string) => Promise<T>): Resource<T> {
  const value = signal<T | null>(null);
  const key = signal<string | null>(null);
  let asked: string | null = null;
  const settle = (of: string | null, found: T | null) => {
    if (asked !== of) return;
    value.value = found;
    key.value = of;
  };
  const end = effect(() => {
    const next = keyOf();
    if (next === asked) return;
    asked = next;
    if (next === null) settle(null, null);
    else load(next).then((found) => settle(next, found), () => settle(next, null));
  });
  return { value, key, end };
}
