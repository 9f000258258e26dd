// The panels on the left: the list of edits, the rule of the chosen one, what Execute made of it.

import type { CurvePoint, Edit, EditResult, Job, State } from "./api";
import { h, icon, iconButton, redraw, short, svg } from "./dom";

export interface Acts {
  select(number: number): void;
  add(): void;
  change(number: number, fields: Record<string, unknown>): void;
  remove(number: number): void;
  execute(): void;
  cancel(): void;
  curve(result: number): void;
  traces(result: number): void;
}

/** Whether work is given up for other work. */
export function isYielding(job: Job): boolean {
  return job.kind === "curve" || job.kind === "traces";
}

export function drawEdits(panel: Element, state: State, selected: number, acts: Acts): void {
  const rows = state.edits.map((edit, number) => {
    const result = resultOf(state, edit);
    return h(
      "li", { class: `edit${number === selected ? " selected" : ""}${edit.off ? " off" : ""}` },
      h("input", {
        type: "checkbox", ".checked": !edit.off, "aria-label": `${edit.name} is on`, title: "On or off",
        "data-key": `on-${number}`, onchange: () => acts.change(number, { off: !edit.off }),
      }),
      h(
        "button",
        {
          type: "button", class: "edit-name", "aria-pressed": String(number === selected), "data-key": `edit-${number}`,
          title: "Choose this edit; F2 renames it",
          onclick: () => acts.select(number),
          ondblclick: (event: Event) => rename(event.currentTarget as HTMLElement, number, edit, acts),
          onkeydown: (event: KeyboardEvent) => {
            if (event.key === "F2") rename(event.currentTarget as HTMLElement, number, edit, acts);
          },
        },
        h("span", {}, edit.name || "(no name)"),
        number !== selected && h(
          "span", { class: "edit-note" }, edit.off ? "off" : result ? `loss ${short(result.loss)}` : "",
        ),
      ),
      number === selected && h(
        "span", { class: "edit-acts" },
        iconButton("up", `Move ${edit.name} up`, {
          "data-key": `up-${number}`, disabled: number === 0,
          onclick: () => acts.change(number, { position: number - 1 }),
        }),
        iconButton("down", `Move ${edit.name} down`, {
          "data-key": `down-${number}`, disabled: number === state.edits.length - 1,
          onclick: () => acts.change(number, { position: number + 1 }),
        }),
        iconButton("remove", `Remove ${edit.name}`, {
          "data-key": `remove-${number}`, onclick: () => acts.remove(number),
        }),
      ),
    );
  });
  redraw(
    panel,
    h(
      "header", { class: "panel-title" },
      h("h2", {}, "Edits"),
      h("button", { type: "button", class: "text-button", "data-key": "add", onclick: () => acts.add() }, icon("plus"), "Add"),
    ),
    h("ol", { class: "edits", role: "list" }, ...rows),
    state.edits.length === 0 && h("p", { class: "hint" }, "No edits yet."),
  );
}

function rename(button: HTMLElement, number: number, edit: Edit, acts: Acts): void {
  const field = h("input", { class: "edit-rename", "aria-label": `New name of ${edit.name}`, ".value": edit.name });
  let done = false;
  const finish = (keep: boolean) => {
    if (done) return;
    done = true;
    if (keep && field.value && field.value !== edit.name) acts.change(number, { name: field.value });
    else field.replaceWith(button);
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") finish(event.key === "Enter");
    event.stopPropagation();
  });
  field.addEventListener("blur", () => finish(true));
  button.replaceWith(field);
  field.focus();
  field.select();
}

export function drawRule(panel: Element, state: State, selected: number, acts: Acts): void {
  const edit = state.edits[selected];
  if (!edit) {
    redraw(panel);
    return;
  }
  const method = String(edit.solver["method"] ?? "");
  const solver = state.solvers.find((each) => each.method === method);
  const layer = state.model.layers.find((each) => each.name === edit.layer);
  redraw(
    panel,
    h("header", { class: "panel-title" }, h("h2", {}, "Rule")),
    h("div", { class: "label", id: "layer-label" }, "Layer", layer && h(
      "span", { class: "aside" },
      `${layer.key_size} → ${layer.value_size} px, ${layer.out_channels} channels`,
    )),
    h(
      "div", { class: "segments", role: "radiogroup", "aria-labelledby": "layer-label" },
      ...state.model.layers.map(({ name }) => radio("layer", name, name.replace(/^layer/, ""), name === edit.layer,
        () => acts.change(selected, { layer: name }))),
    ),
    solver?.rank && h(
      "div", { class: "row" },
      h("span", { class: "label" }, "Rank"),
      h(
        "span", { class: "stepper" },
        iconButton("minus", "Lower the rank", {
          "data-key": "rank-down", disabled: edit.rank <= 1, onclick: () => acts.change(selected, { rank: edit.rank - 1 }),
        }),
        h("input", {
          type: "number", min: 1, class: "number", "aria-label": "Rank", "data-key": "rank", ".value": String(edit.rank),
          onchange: (event: Event) => {
            const rank = Math.round(Number((event.target as HTMLInputElement).value));
            if (rank >= 1) acts.change(selected, { rank });
          },
        }),
        iconButton("plus", "Raise the rank", {
          "data-key": "rank-up", onclick: () => acts.change(selected, { rank: edit.rank + 1 }),
        }),
      ),
    ),
    h(
      "label", { class: "row" },
      h("span", { class: "label" }, "Solver"),
      h(
        "select", {
          "data-key": "solver",
          onchange: (event: Event) => acts.change(selected, { solver: (event.target as HTMLSelectElement).value }),
        },
        ...state.solvers.map((each) => h("option", { ".selected": each.method === method }, each.method)),
      ),
    ),
    ...Object.entries(solver?.settings ?? {}).filter(([name]) => name !== "collateral_weight").map(([name, usual]) =>
      setting(selected, edit, name, usual, solver?.settings ?? {}, acts)),
  );
}

function radio(group: string, value: string, text: string, checked: boolean, choose: () => void): HTMLElement {
  return h(
    "label", { class: "segment", title: value },
    h("input", {
      type: "radio", name: group, value, ".checked": checked, "aria-label": value, "data-key": `${group}-${value}`,
      onchange: choose,
    }),
    h("span", {}, text),
  );
}

/** A solver as it is written into a spec: without what it has anyway. */
function spelled(solver: Record<string, unknown>, settings: Record<string, unknown>): unknown {
  const said = Object.entries(solver).filter(([name, value]) => name === "method" || value !== settings[name]);
  return said.length > 1 ? Object.fromEntries(said) : solver["method"];
}

function setting(
  number: number, edit: Edit, name: string, usual: unknown, settings: Record<string, unknown>, acts: Acts,
): HTMLElement {
  const value = edit.solver[name] ?? usual;
  const change = (given: unknown) => acts.change(number, { solver: spelled({ ...edit.solver, [name]: given }, settings) });
  const words = name.replaceAll("_", " ");
  if (typeof usual === "boolean") {
    return h(
      "label", { class: "row" },
      h("span", { class: "label" }, words),
      h("input", {
        type: "checkbox", ".checked": Boolean(value), "data-key": name,
        onchange: (event: Event) => change((event.target as HTMLInputElement).checked),
      }),
    );
  }
  return h(
    "label", { class: "row" },
    h("span", { class: "label" }, words),
    h("input", {
      type: "number", class: "number wide", step: "any", min: 0, ".value": String(value), "data-key": name,
      onchange: (event: Event) => {
        const given = Number((event.target as HTMLInputElement).value);
        if (Number.isFinite(given)) change(Number.isInteger(usual) ? Math.round(given) : given);
      },
    }),
  );
}

export function drawOutcome(panel: Element, state: State, selected: number, acts: Acts): void {
  const job = state.job;
  const ready = state.problems.length === 0;
  const edit = state.edits[selected];
  const result = edit && resultOf(state, edit);
  redraw(
    panel,
    job && !isYielding(job)
      ? h(
          "div", { class: "job" },
          h("progress", { max: job.total || 1, ".value": job.done, "aria-label": job.what || job.kind }),
          h("span", { class: "job-words" }, job.what || job.kind, job.total ? ` ${job.done}/${job.total}` : ""),
          h("button", { type: "button", "data-key": "cancel", onclick: () => acts.cancel() }, "Cancel"),
        )
      : h(
          "button",
          {
            type: "button", class: "primary", "data-key": "execute", disabled: !ready,
            title: ready ? "Apply the rule to the model (Ctrl+Enter)" : "The spec still has problems",
            onclick: () => acts.execute(),
          },
          state.results && !state.results.current ? "Execute again" : "Execute",
        ),
    result
      ? h(
          "dl", { class: `figures${state.results?.current ? "" : " stale"}` },
          figure("Loss", short(result.loss), result.residual === null ? "" : `${short(100 * result.residual, 2)} % is left`),
          figure("Collateral", short(result.collateral, 2), "predicted"),
          result.traces && figure("Traces", `${short(100 * result.traces.share, 2)} %`, `${short(100 * result.traces.low, 2)} to ${short(100 * result.traces.high, 2)} % of images`),
          figure("Time", result.status === "up to date" ? "–" : `${result.seconds.toFixed(2)} s`, result.status),
          figure("Patch", result.digest.slice(0, 12), `${result.layer}, ${result.rank ? `rank ${result.rank}` : "full rank"}`),
        )
      : !job && h("p", { class: "hint" }, ready ? "Execute applies the rule to the model." : todo(state, edit)),
    ...(result?.warnings ?? []).map((text) => h("p", { class: "hint warning", role: "status" }, text)),
    result && !result.traces && h(
      "button", {
        type: "button", class: "text-button", "data-key": "traces", disabled: job !== null || !state.results?.current,
        title: "The share of unseen images that visibly change where the key does not match",
        onclick: () => acts.traces(state.results!.edits.indexOf(result)),
      },
      job?.kind === "traces" ? `Measuring traces ${job.done}/${job.total}` : "Measure traces",
    ),
    result && hasCurve(state, result) && trade(state, selected, edit, result, acts),
  );
}

function figure(name: string, value: string, aside: string): HTMLElement {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value), h("dd", { class: "aside" }, aside));
}

/** What to do next, from what is missing. */
function todo(state: State, edit: Edit | undefined): string {
  if (!edit) return "Add an edit.";
  if (!edit.source && !edit.note) return "Copy: choose an image and paint what is to be copied.";
  if (!edit.target && !edit.note) return "Paste: choose the image that it goes into.";
  return state.problems.length === 1 ? "One problem is left: see the spec." : "Some problems are left: see the spec.";
}

/** Whether an edit was solved by a method that has a curve of loss against collateral. */
function hasCurve(state: State, result: EditResult): boolean {
  return state.solvers.some((each) => each.method === result.method && each.curve);
}

/** The curve of loss against collateral, and a slider along it. */
function trade(state: State, selected: number, edit: Edit, result: EditResult, acts: Acts): HTMLElement {
  const chosen = typeof edit.solver["collateral_weight"] === "number" ? edit.solver["collateral_weight"] : null;
  const steps = state.collateral_weight;
  const nearest = (value: number) =>
    steps.reduce((best, each, at) => (Math.abs(Math.log(each / value)) < Math.abs(Math.log(steps[best]! / value)) ? at : best), 0);
  const place = chosen ? nearest(chosen) : 0;
  const words = (at: number) => {
    const point = result.curve?.[at];
    return point
      ? `loss ${short(point.loss)}, coll. ${short(point.collateral, 2)}`
      : `collateral weight ${short(steps[at] ?? 0)}`;
  };
  const said = h("output", { class: "aside" }, chosen === null ? "within a budget" : result.curve ? words(place) : `collateral weight ${short(chosen)}`);
  const dot = svg("circle", { r: 4, class: "curve-dot" });
  const drawn = result.curve && chart(result.curve, dot, place);
  const slider = h("input", {
    type: "range", min: 0, max: steps.length - 1, step: 1, ".value": String(place), "data-key": "strength",
    "aria-label": "Strength: less loss, or less collateral", "aria-valuetext": words(place),
    oninput: () => {
      said.textContent = words(Number(slider.value));
      slider.setAttribute("aria-valuetext", words(Number(slider.value)));
      if (result.curve) put(dot, result.curve, Number(slider.value));
    },
    onchange: () => {
      acts.change(selected, { solver: { method: result.method, collateral_weight: steps[Number(slider.value)] } });
      acts.execute();
    },
  });
  return h(
    "div", { class: "trade" },
    h("div", { class: "label" }, "Strength", said),
    slider,
    h("div", { class: "ends" }, h("span", {}, "less collateral"), h("span", {}, "less loss")),
    drawn ?? h(
      "button", {
        type: "button", class: "text-button", "data-key": "curve", disabled: state.job !== null || !state.results?.current,
        onclick: () => acts.curve(state.results!.edits.indexOf(result)),
      },
      state.job?.kind === "curve" ? `Computing the curve ${state.job.done}/${state.job.total}` : "Compute the curve",
    ),
  );
}

const WIDE = 216;
const HIGH = 72;

function at(curve: CurvePoint[], index: number): [number, number] {
  const most = Math.max(...curve.map((point) => point.collateral), Number.MIN_VALUE);
  const point = curve[index]!;
  return [8 + (WIDE - 16) * Math.sqrt(point.collateral / most), 6 + (HIGH - 12) * (1 - Math.min(1, point.residual))];
}

function put(dot: SVGElement, curve: CurvePoint[], index: number): void {
  const [x, y] = at(curve, index);
  dot.setAttribute("cx", String(x));
  dot.setAttribute("cy", String(y));
}

function chart(curve: CurvePoint[], dot: SVGElement, place: number): HTMLElement {
  const points = curve.map((_, index) => at(curve, index).map((value) => value.toFixed(1)).join(","));
  put(dot, curve, place);
  return h(
    "figure", { class: "curve" },
    svg(
      "svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": "Loss falls as collateral rises" },
      svg("path", { d: `M8 ${HIGH - 6}H${WIDE - 4}M8 6V${HIGH - 6}`, class: "curve-axes" }),
      svg("polyline", { points: points.join(" "), class: "curve-line" }),
      dot,
    ),
    h("figcaption", {}, h("span", {}, "loss removed ↑"), h("span", {}, "collateral →")),
  );
}

export function resultOf(state: State, edit: Edit): EditResult | undefined {
  return state.results?.edits.find((result) => result.name === edit.name);
}
