// The middle for images: the three steps, and the canvas.

import type { JSX } from "preact";
import { useRef } from "preact/hooks";
import { Icon } from "../components/controls";
import { enter } from "../places";
import { edit as chosenEdit, isFresh, latent, mode, MODES } from "../store";
import { STEPS } from "../words";
import { ImageCanvas } from "./ImageCanvas";

export function ImageStage(): JSX.Element {
  const isBeginning = isFresh.value && latent.value === null;
  return (
    <section class={`stage ${isBeginning ? "beginning" : ""}`} aria-label="Canvas">
      <Modes />
      <div id="stage-panel" role="tabpanel" aria-labelledby={`mode-${mode.value}`} class="stage-panel">
        {isBeginning && <Welcome />}
        <ImageCanvas />
      </div>
    </section>
  );
}

function Modes(): JSX.Element {
  const list = useRef<HTMLDivElement>(null);
  const edit = chosenEdit.value;
  const done = {
    copy: Boolean(edit?.source || edit?.note), paste: Boolean(edit?.target), context: Boolean(edit?.context.length),
  };
  const press = (event: KeyboardEvent, index: number) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    const next = MODES[(index + step + MODES.length) % MODES.length]!;
    enter(next);
    list.current!.querySelector<HTMLElement>(`#mode-${next}`)?.focus();
  };
  return (
    <div ref={list} class="modes" role="tablist" aria-label="Steps">
      {MODES.map((each, index) => (
        <button
          key={each} type="button" role="tab" id={`mode-${each}`} aria-selected={each === mode.value} aria-controls="stage-panel"
          tabIndex={each === mode.value ? 0 : -1} class={`mode mode-${each}`} title={`${STEPS[each].title} (${index + 1})`}
          onClick={() => enter(each)} onKeyDown={(event) => press(event, index)}
        >
          <span class="mode-number">{done[each] ? <Icon name="check" /> : index + 1}</span>
          {STEPS[each].title}
          {each === "context" && edit && edit.context.length > 0 && <span class="count">{edit.context.length}</span>}
        </button>
      ))}
    </div>
  );
}

/** What an empty project begins with. */
function Welcome(): JSX.Element {
  return (
    <div class="welcome">
      <h2>Change a rule of the model in three steps</h2>
      <ol role="list">
        {MODES.map((each, index) => (
          <li key={each} class={`mode-${each}`}>
            <span class="mode-number">{index + 1}</span>
            <span><strong>{STEPS[each].title}.</strong> {STEPS[each].todo}</span>
          </li>
        ))}
      </ol>
      <p>Then <em>Execute</em>: every image of the model follows the rule. Begin with an image of the gallery.</p>
    </div>
  );
}
