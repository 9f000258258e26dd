// The middle where an edit is written in fields: its entries as cards, and what else it says.

import type { ComponentType, JSX } from "preact";
import type { Edit } from "../api";
import { TextButton } from "../components/controls";
import { Used } from "../components/Used";
import { canEdit, edit as chosenEdit } from "../store";
import { fileOf, type Given } from "./changes";
import { putFields, TokenStrip } from "./fields";

/** The form of the chosen edit. What is done to it by hand begins anew where another edit is chosen. */
export function FormStage({ Form }: { Form: ComponentType<{ edit: Edit }> }): JSX.Element {
  const edit = chosenEdit.value;
  return (
    <section class="stage" aria-label="Canvas">
      <div class="form">
        {edit
          ? <><Used edit={edit} /><fieldset key={edit.id} disabled={!canEdit.value}><Form edit={edit} /></fieldset></>
          : <p class="hint">Add an edit to begin.</p>}
      </div>
    </section>
  );
}

/** How the entries of an edit are read from its fields, and written. */
export interface Entries<T> {
  of: (given: Given) => T[];
  fields: (given: Given, entries: T[]) => Given;
  another: (entries: T[]) => T;
  one: string;
  many: string;
  /** Entries that are shown as cards. More are edited in the text. */
  most: number;
}

export interface CardProperties<T> {
  edit: Edit;
  entry: T;
  index: number;
  /** Where the entry stands in the edit, before the names of its sides. */
  place: string;
  isAlone: boolean;
  put: (change: (entry: T) => T) => void;
  remove: () => void;
}

interface CardsProperties<T> {
  edit: Edit;
  entries: Entries<T>;
  Card: ComponentType<CardProperties<T>>;
  /** What is said of the rows of a file, before the tokens of the first ones. */
  ofRows: string;
  /** What is said where nothing is written yet. */
  children?: JSX.Element | false;
}

/** The entries of an edit, each as a card; or the file whose rows they are. */
export function Cards<T>({ edit, entries, Card, ofRows, children }: CardsProperties<T>): JSX.Element {
  const { given } = edit;
  const { of, fields, another, one, many, most } = entries;
  const all = of(given);
  const file = fileOf(given["pairs"]);
  const put = (change: (all: T[]) => T[]) => putFields(edit, (now) => fields(now, change(of(now))));
  const isPaired = "pairs" in given;
  return (
    <section class="form-part" aria-label={capital(many)}>
      <header class="panel-title">
        <h2>{all.length > 1 ? `${capital(many)} (${all.length})` : capital(one)}</h2>
        {!file && <TextButton icon="plus" onClick={() => put((now) => [...now, another(now)])}>Add a {one}</TextButton>}
      </header>
      {children}
      {file && <Rows edit={edit} words={<>The {many} are the rows of <code>{file}</code>. {ofRows}</>} />}
      {all.slice(0, most).map((entry, index) => (
        <Card
          key={index} edit={edit} entry={entry} index={index} place={isPaired ? `pairs[${index}].` : ""} isAlone={all.length === 1}
          put={(change) => put((now) => now.map((each, other) => (other === index ? change(each) : each)))}
          remove={() => put((now) => now.filter((_, other) => other !== index))}
        />
      ))}
      {all.length > most && <p class="hint">{all.length - most} more {many} stand in the spec.</p>}
    </section>
  );
}

function Rows({ edit, words }: { edit: Edit; words: JSX.Element }): JSX.Element {
  return (
    <>
      <p class="hint">{words}</p>
      {edit.tokens.filter(({ place }) => place.endsWith("target")).map(({ place }) => (
        <TokenStrip key={place} edit={edit} place={place} words={`Tokens of ${place}`} />
      ))}
    </>
  );
}

function capital(words: string): string {
  return words.charAt(0).toUpperCase() + words.slice(1);
}
