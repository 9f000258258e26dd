// The layer of an edit of images.

import type { JSX } from "preact";
import type { Edit } from "../api";
import { Segments } from "../components/controls";
import { changeEdit, state } from "../store";
import { LAYER, layerWords } from "../words";

export function Layers({ edit }: { edit: Edit }): JSX.Element {
  const { layers } = state.value.model;
  const at = layers.findIndex(({ name }) => name === edit.layer);
  const layer = layers[at];
  return (
    <>
      <div class="label">Layer{layer && <span class="aside">{layer.name}</span>}</div>
      <Segments
        name="layer" label="Layer" chosen={edit.layer} choose={(name) => changeEdit(edit.id, () => ({ layer: name }))}
        choices={layers.map((each, index) => ({
          value: each.name,
          words: each.name.replace(/^layer/, ""),
          title: `${each.name}. ${layerWords(each, index, layers.length)}`,
        }))}
      />
      <p class="hint">{layer ? layerWords(layer, at, layers.length) : ""} {LAYER}</p>
    </>
  );
}
