// The facts of an edit: prompts, subjects with their tokens, what the model is to go on with, and what must stay.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Edit } from "../api";
import { IconButton, NumberField, Segments, TextButton } from "../components/controls";
import { filled, fileOf, listOf, recordOf, replaced, textsOf, without, wordsOf, type Given } from "../forms/changes";
import { LinesField, putFields, putList, putProtect, Rows, TextField, TokenStrip } from "../forms/fields";
import { Cards, FormStage, type CardProperties, type Entries } from "../forms/FormStage";
import { anotherFact, factsOf, fieldsOf, turned, type Fact, type Kind } from "./facts";

const KINDS: { value: Kind; words: string; title: string }[] = [
  { value: "text", words: "Text", title: "The model goes on with a text" },
  { value: "copy", words: "Copy", title: "The value of another prompt and subject is copied" },
  { value: "mean", words: "Mean", title: "The fact becomes like those of others" },
  { value: "erase", words: "Forget", title: "The model forgets a text" },
];

const FACTS: Entries<Fact> = { of: factsOf, fields: fieldsOf, another: anotherFact, one: "fact", many: "facts", most: 30 };

export function TextStage(): JSX.Element {
  return <FormStage Form={FactsForm} />;
}

function FactsForm({ edit }: { edit: Edit }): JSX.Element {
  const isBegun = edit.samples.length > 0 || fileOf(edit.given["pairs"]) !== "";
  return (
    <>
      <Cards edit={edit} entries={FACTS} Card={FactForm} ofRows="The first of them, with the tokens of their keys:">
        {!isBegun && (
          <p class="hint">
            Write a prompt with <code>{"{}"}</code> where the subject stands. The key of the rule is the subject's last token, which is
            marked below; its value becomes one after which the model goes on with your text.
          </p>
        )}
      </Cards>
      <Stay edit={edit} />
      <ContextOf edit={edit} />
    </>
  );
}

function FactForm({ edit, entry: fact, index, place, isAlone, put, remove }: CardProperties<Fact>): JSX.Element {
  const [isOpen, setOpen] = useState(fact.paraphrases.length + fact.neighbours.length > 0);
  const change = (fields: Partial<Fact>) => put((now) => ({ ...now, ...fields }));
  return (
    <div class="card" role="group" aria-label={`Fact ${index + 1}`}>
      {!isAlone && <IconButton icon="remove" class="card-remove" label={`Remove fact ${index + 1}`} onClick={remove} />}
      <div class="fields">
        <TextField label="Prompt" value={fact.prompt} hint="{} lives in" put={(prompt) => change({ prompt })} />
        <TextField label="Subject" value={fact.subject} hint="The Eiffel Tower" put={(subject) => change({ subject })} />
      </div>
      <TokenStrip edit={edit} place={`${place}target`} words="Tokens; the key's is marked" />
      <div class="field-row">
        <Segments<Kind>
          name={`kind-${index}`} label="Where the value comes from" choices={KINDS} chosen={fact.kind}
          choose={(kind) => put((now) => turned(now, kind))}
        />
      </div>
      <Source fact={fact} change={change} like={(fields) => put((now) => ({ ...now, like: { ...now.like, ...fields } }))} />
      <details open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>How it is judged</summary>
        <div class="fields">
          <LinesField
            label="The same in other words" hint="The home of {} is in" value={fact.paraphrases}
            put={(paraphrases) => change({ paraphrases })}
          />
          <LinesField
            label="Other subjects that must stay" hint="Rosa Nettle Ashdown" value={fact.neighbours}
            put={(neighbours) => change({ neighbours })}
          />
        </div>
      </details>
    </div>
  );
}

interface SourceProperties {
  fact: Fact;
  change: (fields: Partial<Fact>) => void;
  like: (fields: Partial<Fact["like"]>) => void;
}

function Source({ fact, change, like }: SourceProperties): JSX.Element {
  const { kind, text, was, subjects } = fact;
  return (
    <div class="fields">
      {kind === "text" && (
        <>
          <TextField label="Goes on with" value={text} put={(given) => change({ text: given })} />
          <TextField label="Instead of" value={was} hint="what it says now" put={(given) => change({ was: given })} />
        </>
      )}
      {kind === "copy" && (
        <>
          <TextField label="Prompt that is copied" value={fact.like.prompt} hint="{} lives in" put={(prompt) => like({ prompt })} />
          <TextField label="Subject that is copied" value={fact.like.subject} put={(subject) => like({ subject })} />
        </>
      )}
      {kind === "erase" && <TextField label="Forgets" value={text} put={(given) => change({ text: given })} />}
      {(kind === "mean" || kind === "erase") && (
        <LinesField label={kind === "mean" ? "Like these subjects" : "As often as of these subjects"} value={subjects} put={(given) => change({ subjects: given })} />
      )}
    </div>
  );
}

/** The changes of a list of texts, each of which is written as `spelled` has it. */
function textsIn(edit: Edit, field: string, spelled: (text: string) => string): Pick<Parameters<typeof Rows>[0], "add" | "replace" | "remove"> {
  const put = (change: (texts: string[]) => string[] | null) => putFields(edit, (given) => ({ [field]: change(textsOf(given[field])) }));
  return {
    add: (text) => put((texts) => [...texts, spelled(text)]),
    replace: (index, text) => put((texts) => replaced(texts, index, spelled(text))),
    remove: (index) => put((texts) => without(texts, index)),
  };
}

/** What must stay: facts that are preserved, and prompts that are kept. */
function Stay({ edit }: { edit: Edit }): JSX.Element {
  const { given } = edit;
  const keep = textsOf(given["keep"]);
  return (
    <section class="form-part" aria-label="What must stay">
      <header class="panel-title"><h2>What must stay</h2></header>
      <Preserved edit={edit} />
      <Rows
        label="Prompts after which the model goes on as before, whatever the fact" one="kept prompt" values={keep}
        {...textsIn(edit, "keep", (text) => text)}
      />
      <label class="row check">
        <input
          type="checkbox" checked={given["protect"] === "previous"}
          onChange={(event) => putProtect(edit, event.currentTarget.checked)}
        />
        The facts of the edits before, too
      </label>
    </section>
  );
}

function Preserved({ edit }: { edit: Edit }): JSX.Element {
  const all = edit.given["preserve"];
  const entries = listOf(all).map(recordOf);
  const file = fileOf(all);
  const put = (change: (entries: Given[]) => Given[] | null) => putList(edit, "preserve", change);
  const change = (index: number, fields: Given) =>
    put((now) => replaced(now, index, filled({ ...now[index], ...fields }) ?? {}));
  const usual = wordsOf(recordOf(edit.given["target"])["prompt"]) || factsOf(edit.given)[0]?.prompt || "{} is";
  return (
    <div class="rows" role="group" aria-label="Facts that are preserved">
      <div class="rows-head">
        <span class="label">Facts whose values stay</span>
        {!file && (
          <TextButton icon="plus" aria-label="Add a fact that is preserved" onClick={() => put((now) => [...now, { prompt: usual }])}>Add</TextButton>
        )}
      </div>
      {file && <p class="hint">The rows of <code>{file}</code>.</p>}
      {entries.map((entry, index) => (
        <div key={index} class="rows-row">
          {fileOf(entry) ? <span class="rows-words">the rows of {fileOf(entry)}</span> : (
            <>
              <TextField
                label={`Preserved prompt ${index + 1}`} value={wordsOf(entry["prompt"])}
                put={(prompt) => change(index, { prompt })}
              />
              <TextField
                label={`Preserved subject ${index + 1}`} value={wordsOf(entry["subject"])}
                put={(subject) => change(index, { subject })}
              />
            </>
          )}
          <IconButton icon="remove" label={`Remove preserved fact ${index + 1}`} onClick={() => put((now) => without(now, index))} />
        </div>
      ))}
    </div>
  );
}

/** The texts before the prompt in which the rule holds. */
function ContextOf({ edit }: { edit: Edit }): JSX.Element {
  const given = edit.given["context"];
  const prefixes = recordOf(given);
  const kind = Array.isArray(given) ? "texts" : "prefixes";
  const texts = textsOf(given);
  const put = (context: unknown) => putFields(edit, () => ({ context }));
  return (
    <section class="form-part" aria-label="Context">
      <header class="panel-title"><h2>Context</h2></header>
      <p class="hint">Texts before the prompt in which the rule holds, too.</p>
      <div class="field-row">
        <Segments<string>
          name="context" label="Context" chosen={kind} choose={(next) => put(next === "texts" ? ["By the way, "] : null)}
          choices={[{ value: "prefixes", words: "By the model" }, { value: "texts", words: "My own" }]}
        />
        {kind === "prefixes" && (
          <label class="inline">
            how many
            <NumberField
              value={Number(prefixes["prefixes"] ?? 10)} min="0" aria-label="How many texts of the model"
              put={(count) => putFields(edit, (now) => ({ context: { ...recordOf(now["context"]), prefixes: Math.max(0, Math.round(count)) } }))}
            />
          </label>
        )}
      </div>
      {kind === "texts" && (
        <Rows label="My texts" one="text" values={texts.map((each) => each.trim())} {...textsIn(edit, "context", (text) => `${text} `)} />
      )}
    </section>
  );
}
