// What the page says of the parts of a rule.

import type { Edit, EditResult, Solver, State } from "./api";
import type { Mode } from "./store";

export const STEPS: Record<Mode, { title: string; todo: string }> = {
  copy: { title: "Copy", todo: "Choose an image, and paint what is to be copied." },
  paste: { title: "Paste", todo: "Choose an image that it goes into, and drag it to its place." },
  context: { title: "Context", todo: "Add more places where the rule should hold: search finds them." },
};

type Layer = State["model"]["layers"][number];

/** What a layer is, by its place among the layers and its sizes. */
export function layerWords(layer: Layer, at: number, count: number): string {
  return `${at + 1} of ${count}: reads ${layer.key_size} × ${layer.key_size} positions of ${layer.in_channels} channels, `
    + `writes ${layer.value_size} × ${layer.value_size} of ${layer.out_channels}.`;
}

export const LAYER = "The first layers say what is where, the middle ones draw parts of objects, the last ones texture.";
export const RANK = "How many directions the change may have: more do more, and touch more elsewhere.";
export const STRENGTH = "How much may change elsewhere so that the rule holds better. It is executed where you let go.";

export function solverWords(solver: Solver | undefined): string {
  return solver ? solver.about : "";
}

export function lossWords({ residual }: EditResult, aim: string): string {
  const what = `the distance from ${aim}`;
  return residual === null ? what : `${what}: ${Number((100 * residual).toPrecision(2))} % is left`;
}

export const COLLATERAL = "the predicted change everywhere, as a share";

/** The next step of an edit of images; null where all are done. */
export function nextOfImages(edit: Edit): string | null {
  if (!edit.source && !edit.note) return `Step 1. ${STEPS.copy.todo}`;
  if (!edit.target && !edit.note) return `Step 2. ${STEPS.paste.todo}`;
  return null;
}

/** What to do next, from what is missing; `next` says it of an edit. */
export function nextStep(state: State, edit: Edit | null, next: (edit: Edit) => string | null): string {
  if (!edit) return "Add an edit.";
  if (!state.readable) return "The spec cannot be read: correct it on the right.";
  if (state.edits.every(({ off }) => off)) return "Switch an edit on, or add one.";
  const step = edit.used ? null : next(edit);
  if (step) return step;
  const others = state.problems.filter((problem) => !problem.unfinished && !problem.warning).length;
  if (others) return others === 1 ? "One problem is left: see the spec." : "Some problems are left: see the spec.";
  return "Another edit is not finished yet: finish it, or switch it off.";
}

/** What the canvas waits for. */
export function hintWords(edit: Edit | null, mode: Mode, latent: number | null): string {
  if (!edit) return "Add an edit to begin.";
  if (edit.used) return "Only looked at: this edit stands in another spec.";
  if (edit.note && mode !== "context") return `This edit has ${edit.note}: it is written in the spec.`;
  if (latent === null) {
    if (mode === "paste" && !edit.source) return "Copy something first.";
    return STEPS[mode].todo;
  }
  const image = `Image ${latent}. `;
  if (mode === "copy") return `${image}Paint what is to be copied.`;
  if (mode === "paste") return `${image}Drag what is pasted to its place; the model draws the result.`;
  return `${image}Paint where the rule should hold.`;
}
