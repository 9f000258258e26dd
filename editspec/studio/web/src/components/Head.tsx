// The line at the top: the file and its state, undo and redo, Save and Export.

import type { JSX } from "preact";
import { exportPatches, lost, note, redo, save, say, state, undo, unfinished, wrong } from "../store";
import { useEffect } from "preact/hooks";
import { IconButton } from "./controls";

const NOTE_MILLISECONDS = 6000;

export function Head(): JSX.Element {
  const { file, saved, changed_outside, model, can_undo, can_redo } = state.value;
  const words = changed_outside ? "changed outside" : saved ? "saved" : "draft";
  return (
    <header class="head">
      <h1>editspec <span>studio</span></h1>
      <span class="file" title={saved ? "Saved" : "Kept as a draft; not saved yet"}>
        {file}
        <span class={`file-state ${saved ? "is-saved" : "is-draft"}`}>{words}</span>
      </span>
      <span class="model" title={`weights ${model.digest}`}>{model.weights}</span>
      {lost.value && <span class="lost-words" role="status">Not connected: open the address that editspec studio prints</span>}
      <span class="spring" />
      <Note />
      <IconButton icon="undo" label="Undo (Ctrl+Z)" disabled={!can_undo} onClick={undo} />
      <IconButton icon="redo" label="Redo (Ctrl+Shift+Z)" disabled={!can_redo} onClick={redo} />
      <button type="button" title="Write the spec and its masks (Ctrl+S)" onClick={() => save()}>Save</button>
      <button
        type="button" title="Save, and write the patches to build/, which git ignores"
        disabled={wrong.value.length > 0 || unfinished.value.length > 0 || state.value.edits.length === 0} onClick={exportPatches}
      >
        Export
      </button>
    </header>
  );
}

/** What was done last, for some seconds. */
function Note(): JSX.Element {
  const words = note.value;
  useEffect(() => {
    if (!words) return;
    const timer = setTimeout(() => say(""), NOTE_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [words]);
  return <span class="note" role="status">{words}</span>;
}
