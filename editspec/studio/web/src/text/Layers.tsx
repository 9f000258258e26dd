// The layers of an edit of facts: one, or several over which the change is spread.

import type { JSX } from "preact";
import type { Edit } from "../api";
import { putFields } from "../forms/fields";
import { state } from "../store";

export function Layers({ edit }: { edit: Edit }): JSX.Element {
  const names = state.value.model.layers.map(({ name }) => name);
  const turn = (name: string) => putFields(edit, (_, { layers }) => {
    const next = names.filter((each) => layers.includes(each) !== (each === name));
    if (next.length === 0) return {};
    return next.length === 1 ? { layer: next[0], layers: null } : { layer: null, layers: next };
  });
  return (
    <>
      <div class="label">{edit.layers.length > 1 ? "Layers" : "Layer"}<span class="aside">{edit.layers.join(", ")}</span></div>
      <div class="toggles" role="group" aria-label="Layers">
        {names.map((name) => (
          <button key={name} type="button" aria-pressed={edit.layers.includes(name)} title={name} onClick={() => turn(name)}>
            <span class="unseen">{name.replace(/\d*$/, "")}</span>{name.replace(/^layer/, "")}
          </button>
        ))}
      </div>
      <p class="hint">The second matrix of the MLP of a block. Facts lie in the first half; over several layers the change is spread.</p>
    </>
  );
}
