// The list of edits.

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Edit } from "../api";
import { addEdit, changeEdit, edit as chosenEdit, removeEdit, resultOf, select, state } from "../store";
import { clamp } from "../image/geometry";
import { IconButton, short, TextButton } from "./controls";

export function Edits(): JSX.Element {
  const { edits, readable } = state.value;
  return (
    <section class="panel" aria-label="Edits">
      <header class="panel-title">
        <h2>Edits</h2>
        <TextButton icon="plus" disabled={!readable} onClick={addEdit}>Add</TextButton>
      </header>
      {!readable && <p class="hint">The spec cannot be read. This is what it held before.</p>}
      <ol class={`edits ${readable ? "" : "held"}`} role="list">
        {edits.map((each, number) => <EditRow key={each.id} edit={each} number={number} />)}
      </ol>
      {edits.length === 0 && <p class="hint">No edits yet. <em>Add</em> makes one.</p>}
    </section>
  );
}

function EditRow({ edit, number }: { edit: Edit; number: number }): JSX.Element {
  const [isRenamed, setRenamed] = useState(false);
  const { edits, readable } = state.value;
  const isChosen = chosenEdit.value?.id === edit.id;
  const put = (fields: Record<string, unknown>) => changeEdit(edit.id, () => fields);
  const move = (by: number) => changeEdit(edit.id, (_, at) => ({ position: clamp(at + by, 0, state.value.edits.length - 1) }));
  return (
    <li class={`edit ${isChosen ? "selected" : ""} ${edit.off ? "off" : ""}`}>
      <input
        type="checkbox" checked={!edit.off} disabled={!readable} aria-label={`${edit.name} is on`} title="On or off"
        onChange={(event) => put({ off: !event.currentTarget.checked })}
      />
      {isRenamed
        ? <Rename edit={edit} put={(name) => put({ name })} end={() => setRenamed(false)} />
        : (
          <button
            type="button" class="edit-name" aria-pressed={isChosen} title="Choose this edit; F2 renames it" data-key={`edit-${number}`}
            onClick={() => select(edit.id)} onDblClick={() => setRenamed(readable)}
            onKeyDown={(event) => event.key === "F2" && setRenamed(readable)}
          >
            <span>{edit.name || "(no name)"}</span>
            {!isChosen && <span class="edit-note">{noteOf(edit)}</span>}
          </button>
        )}
      {isChosen && readable && (
        <span class="edit-acts">
          <IconButton
            icon="up" label={`Move ${edit.name} up`} disabled={number === 0}
            onClick={() => move(-1)}
          />
          <IconButton
            icon="down" label={`Move ${edit.name} down`} disabled={number === edits.length - 1}
            onClick={() => move(1)}
          />
          <IconButton icon="remove" label={`Remove ${edit.name}`} onClick={() => removeEdit(edit.id)} />
        </span>
      )}
    </li>
  );
}

function noteOf(edit: Edit): string {
  if (edit.off) return "off";
  const result = resultOf(edit);
  return result ? `loss ${short(result.loss)}` : "";
}

function Rename({ edit, put, end }: { edit: Edit; put: (name: string) => void; end: () => void }): JSX.Element {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.select(), []);
  const finish = (isKept: boolean) => {
    const name = field.current?.value ?? "";
    if (isKept && name && name !== edit.name) put(name);
    end();
  };
  return (
    <input
      ref={field} class="edit-rename" aria-label={`New name of ${edit.name}`} defaultValue={edit.name} autofocus
      onKeyDown={(event) => {
        event.stopPropagation();
        if (event.key === "Enter" || event.key === "Escape") finish(event.key === "Enter");
      }}
      onBlur={() => finish(true)}
    />
  );
}
