// The page.

import "./studio.css";
import { render, type JSX } from "preact";
import { Refused } from "./api";
import { canvas } from "./canvases";
import { Edits } from "./components/Edits";
import { Head } from "./components/Head";
import { Lightbox } from "./components/Lightbox";
import { Messages } from "./components/News";
import { Action, Outcome } from "./components/Outcome";
import { Rule } from "./components/Rule";
import { SpecPane } from "./components/SpecPane";
import { enter } from "./places";
import { enlarged, execute, isFresh, MODES, redo, save, spoken, start, undo } from "./store";

const FIELDS = "input:not([type=radio], [type=checkbox], [type=range]), textarea, select";

function Page(): JSX.Element {
  const { Stage, Panel } = canvas.value;
  return (
    <>
      <Head />
      <main class={`main ${isFresh.value ? "fresh" : ""}`}>
        <div class="side"><div class="side-top"><Edits /><Rule /><Outcome /></div><Action /></div>
        <Stage />
        <div class="right"><Panel /><SpecPane /></div>
      </main>
      <Lightbox />
      <Messages />
      <div class="unseen" role="status" aria-live="polite">{spoken.value}</div>
    </>
  );
}

/** Write what is being typed into the spec, as leaving the field does. */
function commitTyped(): void {
  const field = document.activeElement as HTMLElement | null;
  field?.blur();
  field?.focus();
}

function press(event: KeyboardEvent): void {
  if (enlarged.value !== null) return;
  const isTyping = (event.target as Element).closest(FIELDS) !== null;
  const isCommand = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (isTyping && isCommand && (key === "s" || key === "enter")) commitTyped();
  if (isCommand && key === "s") save();
  else if (isCommand && key === "enter") execute();
  else if (isTyping) return;
  else if (isCommand && key === "z") (event.shiftKey ? redo : undo)();
  else if (!isCommand && !event.altKey && "123".includes(event.key) && canvas.value.press) enter(MODES[Number(event.key) - 1]!);
  else if (!canvas.value.press?.(event)) return;
  event.preventDefault();
}

const root = document.getElementById("studio")!;
start().then(() => {
  document.addEventListener("keydown", press);
  render(<Page />, root);
}).catch((error: unknown) => {
  const words = error instanceof Refused ? `${error.failure.message} ${error.failure.hint}` : String(error);
  render(<p class="stopped" role="alert">{words}</p>, root);
});
