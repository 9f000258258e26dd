// Fields of a form whose values are written into the spec where they are left, or by Enter.

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import type { Edit } from "../api";
import { Icon, IconButton, TextButton, useTyped } from "../components/controls";
import { changeEdit } from "../store";
import { changesOf, linesOf, listOf, recordOf, type Given } from "./changes";

/** Write fields of an edit, as far as they differ from what it has by then. */
export function putFields(edit: Edit, wanted: (given: Given, now: Edit) => Given): void {
  changeEdit(edit.id, (now) => {
    const fields = changesOf(now.given, wanted(now.given, now));
    return Object.keys(fields).length ? { fields } : null;
  });
}

/** Write a list of an edit, as it is made of the present one. */
export function putList(edit: Edit, field: string, change: (entries: Given[]) => Given[] | null): void {
  putFields(edit, (given) => ({ [field]: change(listOf(given[field]).map(recordOf)) }));
}

/** Say whether what the edits before have made must stay, too. */
export function putProtect(edit: Edit, isProtected: boolean): void {
  putFields(edit, () => ({ protect: isProtected ? "previous" : null }));
}

interface TextProperties {
  label: string;
  value: string;
  put: (given: string) => void;
  hint?: string;
  disabled?: boolean;
}

/** A field for a text, with its label above. What is being typed stays, whatever the server says meanwhile. */
export function TextField({ label, value, put, hint, disabled }: TextProperties): JSX.Element {
  return (
    <label class="field">
      <span class="label">{label}</span>
      <Bare label={label} value={value} put={put} hint={hint} disabled={disabled} />
    </label>
  );
}

function Bare({ label, value, put, hint, disabled }: { [name in keyof TextProperties]: TextProperties[name] | undefined } & TextProperties): JSX.Element {
  const { shown, type, commit } = useTyped(value, (typed) => put(typed.trim()));
  return (
    <input
      type="text" class="text-field" aria-label={label} value={shown} placeholder={hint ?? ""} disabled={disabled ?? false}
      spellcheck={false} autocomplete="off" onInput={(event) => type(event.currentTarget.value)} onBlur={commit}
      onKeyDown={(event) => event.key === "Enter" && !event.ctrlKey && commit()}
    />
  );
}

/** A field for texts, one to a line. */
export function LinesField({ label, value, put, hint }: { label: string; value: string[]; put: (given: string[]) => void; hint?: string }): JSX.Element {
  const { shown, type, commit } = useTyped(value.join("\n"), (typed) => put(linesOf(typed)));
  return (
    <label class="field">
      <span class="label">{label}</span>
      <textarea
        class="text-field" aria-label={label} rows={Math.min(8, Math.max(2, shown.split("\n").length))} value={shown} placeholder={hint ?? ""}
        spellcheck={false} onInput={(event) => type(event.currentTarget.value)} onBlur={commit}
      />
    </label>
  );
}

interface RowsProperties {
  label: string;
  /** What one of them is called, for its field and its buttons. */
  one: string;
  /** The texts; null for an entry that is not a text, which `words` describes. */
  values: (string | null)[];
  words?: (index: number) => string;
  add: (text: string) => void;
  replace: (index: number, text: string) => void;
  remove: (index: number) => void;
}

/** A list of texts, each in a field of its own. An empty one goes. */
export function Rows({ label, one, values, words, add, replace, remove }: RowsProperties): JSX.Element {
  const [isAdding, setAdding] = useState(false);
  return (
    <div class="rows" role="group" aria-label={label}>
      <div class="rows-head">
        <span class="label">{label}</span>
        <TextButton icon="plus" aria-label={`Add ${one}`} onClick={() => setAdding(true)}>Add</TextButton>
      </div>
      {values.map((value, index) => (
        <div key={index} class="rows-row">
          {value === null
            ? <span class="rows-words">{words?.(index)}</span>
            : <Bare label={`${one} ${index + 1}`} value={value} put={(given) => (given ? replace(index, given) : remove(index))} />}
          {value !== null && words?.(index) && <span class="aside">{words(index)}</span>}
          <IconButton icon="remove" label={`Remove ${one} ${index + 1}`} onClick={() => remove(index)} />
        </div>
      ))}
      {isAdding && (
        <NewRow
          label={`${one} ${values.length + 1}`} end={() => setAdding(false)}
          put={(given) => {
            setAdding(false);
            if (given) add(given);
          }}
        />
      )}
    </div>
  );
}

/** A field for one more text, which goes where nothing is written. */
function NewRow({ label, put, end }: { label: string; put: (given: string) => void; end: () => void }): JSX.Element {
  // A field that goes loses the focus, too: what is written in it counts once.
  const isLeft = useRef(false);
  const leave = (text: string) => {
    if (!isLeft.current) put(text);
    isLeft.current = true;
  };
  return (
    <div class="rows-row">
      <input
        type="text" class="text-field" aria-label={label} spellcheck={false} autocomplete="off" ref={(field) => field?.focus()}
        onBlur={(event) => leave(event.currentTarget.value.trim())}
        onKeyDown={(event) => {
          if (event.key === "Enter") leave(event.currentTarget.value.trim());
          if (event.key !== "Escape") return;
          isLeft.current = true;
          end();
        }}
      />
    </div>
  );
}

/** A text as tokens: those that are edited, or whose value is taken, are marked. */
export function TokenStrip({ edit, place, words }: { edit: Edit; place: string; words: string }): JSX.Element | null {
  const found = edit.tokens.find((each) => each.place === place);
  if (!found) return null;
  if (found.trouble) return <p class="hint trouble" role="status"><Icon name="remove" />{found.trouble}</p>;
  return (
    <div class="tokens" role="group" aria-label={words}>
      {found.pieces.map((piece, index) => {
        const isMarked = found.marked.includes(index);
        return (
          <span key={index} class={`token ${isMarked ? "is-marked" : ""}`}>
            {isMarked && <span class="unseen">marked: </span>}{shown(piece)}
          </span>
        );
      })}
      {found.padding > 0 && <span class="token is-marked">{found.padding} of padding</span>}
    </div>
  );
}

/** A token with its blank before it, which is a part of it. */
function shown(piece: string): string {
  return piece.replace(/^ /, "\u00b7").replaceAll("\n", "\u21b5") || "\u2205";
}
