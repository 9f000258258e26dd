// What Execute made of the chosen edit: figures, warnings with what helps, and the curve of loss against collateral.

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { CurvePoint, Edit, EditResult } from "../api";
import {
  cancel, canEdit, canExecute, changeEdit, computeCurve, edit as chosenEdit, enlarged, execute, preserve, resultOf, state, stream,
} from "../store";
import { canvas } from "../canvases";
import { COLLATERAL, lossWords, nextStep, STRENGTH } from "../words";
import { short, TextButton } from "./controls";

/** The share of unseen images with visible change elsewhere that is told as a warning. */
const MANY_TRACES = 0.25;

/** Execute, or the work that is under way. */
export function Action(): JSX.Element {
  const edit = chosenEdit.value;
  const { job } = state.value;
  const words = canExecute.value ? "Execute applies the rule to the model." : nextStep(state.value, edit, canvas.value.next);
  return (
    <div class="action">
      {job && !job.yielding ? <Job /> : <Execute />}
      {!(edit && resultOf(edit) && canExecute.value) && <p class="hint">{words}</p>}
    </div>
  );
}

export function Outcome(): JSX.Element | null {
  const edit = chosenEdit.value;
  const { results } = state.value;
  const result = edit ? resultOf(edit) : undefined;
  const panel = useRef<HTMLElement>(null);
  useEffect(() => {
    if (result?.current) panel.current?.scrollIntoView({ block: "nearest" });
  }, [result?.digest, result?.current, result?.traces]);
  if (!edit || !result) return null;
  return (
    <section ref={panel} class="panel outcome" aria-label="Result">
      <header class="panel-title"><h2>Result</h2></header>
      {results && (
        <p class="hint" role="status">
          {result.current ? "This is what was executed." : "The spec has changed since it was executed."}
        </p>
      )}
      <Figures result={result} />
      <Advice edit={edit} result={result} />
      {result.warnings.map((text) => <p key={text} class="hint warning" role="status">{text}</p>)}
      {hasCurve(result) && <Trade edit={edit} result={result} />}
    </section>
  );
}

function Execute(): JSX.Element {
  const isAgain = state.value.results !== null && !state.value.results.current;
  return (
    <button
      type="button" class="primary" disabled={!canExecute.value} onClick={execute} data-key="execute"
      title={canExecute.value ? "Apply the rule to the model (Ctrl+Enter)" : nextStep(state.value, chosenEdit.value, canvas.value.next)}
    >
      {isAgain ? "Execute again" : "Execute"}
    </button>
  );
}

function Job(): JSX.Element {
  const { kind, what, done, total } = state.value.job!;
  return (
    <div class="job">
      <progress max={total || 1} value={done} aria-label={what || kind} />
      <span class="job-words">{what || kind}{total ? ` ${done}/${total}` : ""}</span>
      <button type="button" onClick={cancel}>Cancel</button>
    </div>
  );
}

function Figures({ result }: { result: EditResult }): JSX.Element {
  const time = result.status === "up to date" ? "–" : `${result.seconds.toFixed(2)} s`;
  const rank = result.rank ? `rank ${result.rank}` : "full rank";
  return (
    <dl class={`figures ${result.current ? "" : "stale"}`}>
      <Figure name="Loss" value={short(result.loss)} aside={lossWords(result, canvas.value.aim)} />
      <Figure name="Collateral" value={short(result.collateral, 2)} aside={COLLATERAL} isBad={result.high} />
      {result.traces && (
        <Figure
          name="Traces" value={`${Math.round(100 * result.traces.share)} %`} isBad={result.traces.share > MANY_TRACES}
          aside={`of ${result.traces.images} unseen images change where they should not`}
        />
      )}
      <Figure name="Time" value={time} aside={result.status} />
      <Figure name="Patch" value={result.digest.slice(0, 12)} aside={`${layersOf(result)}, ${rank}`} />
    </dl>
  );
}

function layersOf({ layer }: EditResult): string {
  const names = layer.split(",");
  return names.length > 3 ? `${names.length} layers` : names.join(", ");
}

function Figure({ name, value, aside, isBad }: { name: string; value: string; aside: string; isBad?: boolean }): JSX.Element {
  return (
    <div class={isBad ? "is-bad" : ""}>
      <dt>{name}</dt>
      <dd>{value}</dd>
      <dd class="aside">{aside}</dd>
    </div>
  );
}

/** What to do where an edit touches much besides what it is about. */
function Advice({ edit, result }: { edit: Edit; result: EditResult }): JSX.Element | null {
  const hasTraces = (result.traces?.share ?? 0) > MANY_TRACES;
  if (!result.high && !hasTraces) return null;
  const { solvers, file, job } = state.value;
  const canPreserve = solvers.some((each) => each.method === result.method && each.preserve);
  const show = (image: number) => {
    stream.value = "fresh";
    enlarged.value = image;
  };
  return (
    <div class="advice" role="status">
      <strong>
        {result.high ? "This edit touches most of every image." : "This edit shows in images that it is not about."}
      </strong>
      <p>Add context, lower the rank, or preserve images in which the key does not match.</p>
      {result.traces && result.traces.worst.length > 0 && (
        <p>
          The worst:{" "}
          {result.traces.worst.map((image) => (
            <button key={image} type="button" class="link" onClick={() => show(image)}>sample {image}</button>
          ))}
        </p>
      )}
      {canPreserve && (
        <TextButton
          icon="check" disabled={(job !== null && !job.yielding) || !result.current || !canEdit.value}
          onClick={() => preserve(edit.id)}
        >
          {edit.preserved ? "Preserve other images anew" : "Preserve other images"}
        </TextButton>
      )}
      <p class="aside">
        <code>editspec tune {file} -o tuned</code> finds layer, rank and what to preserve by itself.
      </p>
    </div>
  );
}

/** Whether an edit was solved by a method that has a curve of loss against collateral. */
function hasCurve(result: EditResult): boolean {
  return state.value.solvers.some((each) => each.method === result.method && each.curve);
}

/** The curve of loss against collateral, and a slider along it. */
function Trade({ edit, result }: { edit: Edit; result: EditResult }): JSX.Element {
  const steps = state.value.collateral_weight;
  const weight = edit.solver["collateral_weight"];
  const chosen = typeof weight === "number" ? weight : null;
  const place = chosen === null ? 0 : nearest(steps, chosen);
  const [at, setAt] = useState(place);
  useEffect(() => setAt(place), [place]);
  const { curve } = result;
  const point = curve?.[at];
  const words = point
    ? `loss ${short(point.loss)}, coll. ${short(point.collateral, 2)}`
    : `collateral weight ${short(steps[at] ?? 0)}`;
  const moved = () => {
    changeEdit(edit.id, () => ({ solver: { method: result.method, collateral_weight: steps[at] } }));
    execute();
  };
  return (
    <div class="trade">
      <div class="label">Strength<output class="aside">{chosen === null ? "within a budget" : words}</output></div>
      <input
        type="range" min="0" max={steps.length - 1} step="1" value={at} aria-valuetext={words}
        aria-label="Strength: less loss, or less collateral" disabled={!canEdit.value}
        onInput={(event) => setAt(Number(event.currentTarget.value))} onChange={moved}
      />
      <div class="ends"><span>less collateral</span><span>less loss</span></div>
      <p class="hint">{STRENGTH}</p>
      {curve ? <Curve curve={curve} at={at} /> : <AskForCurve result={result} />}
    </div>
  );
}

function AskForCurve({ result }: { result: EditResult }): JSX.Element {
  const { job, results } = state.value;
  const words = job?.kind === "curve" ? `Computing the curve ${job.done}/${job.total}` : "Compute the curve";
  return (
    <button
      type="button" class="text-button" disabled={(job !== null && job.kind !== "traces") || !results?.current} onClick={() => computeCurve(result)}
    >
      {words}
    </button>
  );
}

function nearest(steps: number[], value: number): number {
  const distances = steps.map((each) => Math.abs(Math.log(each / value)));
  return distances.indexOf(Math.min(...distances));
}

const WIDE = 216;
const HIGH = 72;

function Curve({ curve, at }: { curve: CurvePoint[]; at: number }): JSX.Element {
  const most = Math.max(...curve.map((point) => point.collateral), Number.MIN_VALUE);
  const place = (point: CurvePoint): [number, number] => [
    8 + (WIDE - 16) * Math.sqrt(point.collateral / most),
    6 + (HIGH - 12) * (1 - Math.min(1, point.residual)),
  ];
  const points = curve.map((point) => place(point).map((value) => value.toFixed(1)).join(","));
  const [x, y] = place(curve[at]!);
  return (
    <figure class="curve">
      <svg viewBox={`0 0 ${WIDE} ${HIGH}`} role="img" aria-label="Loss falls as collateral rises">
        <path d={`M8 ${HIGH - 6}H${WIDE - 4}M8 6V${HIGH - 6}`} class="curve-axes" />
        <polyline points={points.join(" ")} class="curve-line" />
        <circle r="4" class="curve-dot" cx={x} cy={y} />
      </svg>
      <figcaption><span>loss removed ↑</span><span>collateral →</span></figcaption>
    </figure>
  );
}
