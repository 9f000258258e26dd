// The layers of an edit of concepts: all that read the text, a group of them, or one.

import type { JSX } from "preact";
import type { Edit } from "../api";
import { putFields } from "../forms/fields";
import { state } from "../store";

export function Layers({ edit }: { edit: Edit }): JSX.Element {
  const { groups, layers } = state.value.model;
  const chosen = edit.layers.join(", ");
  const names = [...groups, ...layers.map(({ name }) => name)];
  const put = (name: string) => putFields(edit, () => ({ layer: null, layers: name === groups[0] ? null : name }));
  return (
    <>
      <label class="row">
        <span class="label">Layers</span>
        <select class="layers" value={chosen} onChange={(event) => put(event.currentTarget.value)}>
          {!names.includes(chosen) && <option value={chosen}>{chosen}</option>}
          {names.map((name) => <option key={name} value={name}>{name}</option>)}
        </select>
      </label>
      <p class="hint">The matrices that read the text: to_k finds where it is meant, to_v what is drawn there.</p>
    </>
  );
}
