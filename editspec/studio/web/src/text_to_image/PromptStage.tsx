// The concepts of an edit: prompts with their tokens, what they are answered like, and what must stay.

import type { JSX } from "preact";
import type { Edit } from "../api";
import { IconButton, NumberField, Segments, TextButton } from "../components/controls";
import { fileOf, listOf, recordOf, replaced, without, wordsOf, type Given } from "../forms/changes";
import { putList, putProtect, Rows, TextField, TokenStrip } from "../forms/fields";
import { Cards, FormStage, type CardProperties, type Entries } from "../forms/FormStage";
import { anotherConcept, conceptsOf, fieldsOf, turned, type Addend, type Concept, type Kind } from "./concepts";

const KINDS: { value: Kind; words: string; title: string }[] = [
  { value: "replace", words: "Replace", title: "Answered like another prompt" },
  { value: "erase", words: "Erase", title: "Answered like the begin of a text" },
  { value: "shift", words: "Move", title: "Moved by stated shares of other prompts" },
];

const TOKENS = [
  { value: "", words: "Default", title: "As the numerics have it: last" },
  { value: "last", words: "Last", title: "The last token of the text" },
  { value: "content", words: "Content", title: "Each token of the text" },
  { value: "all", words: "All", title: "These, and the end and padding behind them" },
  { value: "aligned", words: "Aligned", title: "What both prompts share around the words that differ" },
];

const CONCEPTS: Entries<Concept> = { of: conceptsOf, fields: fieldsOf, another: anotherConcept, one: "concept", many: "concepts", most: 20 };

export function PromptStage(): JSX.Element {
  return <FormStage Form={ConceptsForm} />;
}

function ConceptsForm({ edit }: { edit: Edit }): JSX.Element {
  return (
    <>
      <Cards edit={edit} entries={CONCEPTS} Card={ConceptForm} ofRows="The first of them; the tokens that are edited are marked:" />
      <Lists edit={edit} />
    </>
  );
}

function ConceptForm({ edit, entry: concept, index, place, isAlone, put, remove }: CardProperties<Concept>): JSX.Element {
  const change = (fields: Partial<Concept>) => put((now) => ({ ...now, ...fields }));
  return (
    <div class="card" role="group" aria-label={`Concept ${index + 1}`}>
      {!isAlone && <IconButton icon="remove" class="card-remove" label={`Remove concept ${index + 1}`} onClick={remove} />}
      <TextField label="Concept that is edited" value={concept.target} hint="two domes" put={(target) => change({ target })} />
      <TokenStrip edit={edit} place={`${place}target`} words="Tokens of the concept; those that are edited are marked" />
      <div class="field-row">
        <span class="label">Tokens</span>
        <Segments name={`tokens-${index}`} label="Tokens that are edited" choices={TOKENS} chosen={concept.tokens} choose={(tokens) => change({ tokens })} />
      </div>
      <div class="field-row">
        <Segments<Kind> name={`kind-${index}`} label="What becomes of it" choices={KINDS} chosen={concept.kind} choose={(kind) => put((now) => turned(now, kind))} />
      </div>
      {concept.kind === "replace" && (
        <>
          <TextField label="Is answered like" value={concept.source} hint="two spires" put={(source) => change({ source })} />
          <TokenStrip edit={edit} place={`${place}source`} words="Tokens of the source; the value is taken from the marked one" />
        </>
      )}
      {concept.kind === "erase" && <p class="hint">It is answered like the begin of a text, which is the same in every prompt.</p>}
      {concept.kind === "shift" && <Addends add={concept.add} put={(next) => put((now) => ({ ...now, add: next(now.add) }))} />}
    </div>
  );
}

/** Prompts whose values are added, each times a factor. */
function Addends({ add, put }: { add: Addend[]; put: (change: (add: Addend[]) => Addend[]) => void }): JSX.Element {
  return (
    <div class="rows" role="group" aria-label="Prompts that are added">
      <div class="rows-head">
        <span class="label">Plus these, times a factor (negative takes out)</span>
        <TextButton icon="plus" aria-label="Add a prompt that is added" onClick={() => put((now) => [...now, { prompt: "", by: -0.3 }])}>Add</TextButton>
      </div>
      {add.map((each, index) => {
        const change = (fields: Partial<Addend>) => put((now) => now.map((one, other) => (other === index ? { ...one, ...fields } : one)));
        return (
          <div key={index} class="rows-row">
            <TextField label={`Added prompt ${index + 1}`} value={each.prompt} put={(prompt) => change({ prompt })} />
            <NumberField value={each.by} aria-label={`Factor ${index + 1}`} put={(by) => change({ by })} />
            <IconButton
              icon="remove" label={`Remove added prompt ${index + 1}`}
              onClick={() => put((now) => now.filter((_, other) => other !== index))}
            />
          </div>
        );
      })}
    </div>
  );
}

function Lists({ edit }: { edit: Edit }): JSX.Element {
  const { given } = edit;
  return (
    <>
      <section class="form-part" aria-label="Context">
        <header class="panel-title"><h2>Context</h2></header>
        <Prompts edit={edit} field="context" label="More phrasings of the concept" one="phrasing" />
      </section>
      <section class="form-part" aria-label="What must stay">
        <header class="panel-title"><h2>What must stay</h2></header>
        <Prompts edit={edit} field="preserve" label="Prompts whose answers stay" one="preserved prompt" />
        <label class="row check">
          <input
            type="checkbox" checked={given["protect"] === "previous"}
            onChange={(event) => putProtect(edit, event.currentTarget.checked)}
          />
          The concepts of the edits before, too
        </label>
      </section>
    </>
  );
}

function Prompts({ edit, field, label, one }: { edit: Edit; field: string; label: string; one: string }): JSX.Element {
  const entries = listOf(edit.given[field]).map(recordOf);
  const put = (change: (entries: Given[]) => Given[] | null) => putList(edit, field, change);
  return (
    <Rows
      label={label} one={one} values={entries.map((each) => (fileOf(each) ? null : wordsOf(each["prompt"])))}
      words={(index) => moreOf(entries[index] ?? {})} add={(prompt) => put((now) => [...now, { prompt }])}
      replace={(index, prompt) => put((now) => replaced(now, index, { ...now[index], prompt }))}
      remove={(index) => put((now) => without(now, index))}
    />
  );
}

/** What else an entry says, in words. */
function moreOf(entry: Given): string {
  const rest = Object.entries(entry).filter(([name]) => name !== "prompt" && name !== "file").map(([name, value]) => `${name} ${String(value)}`);
  return [fileOf(entry) ? `the lines of ${fileOf(entry)}` : "", ...rest].filter(Boolean).join(", ");
}
