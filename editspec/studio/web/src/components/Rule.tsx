// The rule of the chosen edit: layer, rank, solver, and what is preserved.

import type { JSX } from "preact";
import type { Edit, Solver } from "../api";
import { canEdit, changeEdit, edit as chosenEdit, forgetPreserved, state } from "../store";
import { canvas } from "../canvases";
import { RANK, solverWords } from "../words";
import { IconButton, NumberField } from "./controls";
import { Used } from "./Used";

export function Rule(): JSX.Element | null {
  const edit = chosenEdit.value;
  if (!edit) return null;
  const { solvers } = state.value;
  const method = String(edit.solver["method"] ?? "");
  const solver = solvers.find((each) => each.method === method);
  const { Layers, hasRank } = canvas.value;
  const change = (fieldsOf: FieldsOf) => changeEdit(edit.id, fieldsOf);
  const putSolver = (name: string) => change(() => ({ solver: name }));
  return (
    <section class="panel" aria-label="Rule">
      <fieldset class="rule" disabled={!canEdit.value}>
        <header class="panel-title"><h2>Rule</h2></header>
        <Used edit={edit} />
        <Layers edit={edit} />
        {hasRank && solver?.rank && <Rank edit={edit} change={change} />}
        <label class="row">
          <span class="label">Solver</span>
          <select value={method} onChange={(event) => putSolver(event.currentTarget.value)}>
            {solvers.map((each) => <option key={each.method} value={each.method}>{each.method}</option>)}
          </select>
        </label>
        <p class="hint">{solverWords(solver)}</p>
        {solver && <Settings edit={edit} solver={solver} change={change} />}
        {edit.preserved > 0 && (
          <div class="row">
            <span class="label">Preserved</span>
            <span class="stepper">
              {edit.preserved} {edit.preserved === 1 ? "image" : "images"}
              <IconButton icon="remove" label="Preserve nothing" onClick={() => forgetPreserved(edit.id)} />
            </span>
          </div>
        )}
      </fieldset>
    </section>
  );
}

/** The fields that change, from what the edit says once the changes before have arrived. */
type FieldsOf = (now: Edit) => Record<string, unknown>;
type Change = (fieldsOf: FieldsOf) => void;

function Rank({ edit, change }: { edit: Edit; change: Change }): JSX.Element {
  const { rank } = edit;
  if (rank === null) {
    return (
      <div class="row">
        <span class="label">Rank</span>
        <span>one for each token <button type="button" class="link" onClick={() => change(() => ({ rank: 2 }))}>limit it</button></span>
      </div>
    );
  }
  if (rank === "full") {
    return (
      <div class="row">
        <span class="label">Rank</span>
        <span>full <button type="button" class="link" onClick={() => change(() => ({ rank: 16 }))}>limit it</button></span>
      </div>
    );
  }
  const step = (by: number) => change((now) => ({ rank: Math.max(1, Number(now.rank) + by) }));
  return (
    <>
      <div class="row">
        <span class="label">Rank</span>
        <span class="stepper">
          <IconButton icon="minus" label="Lower the rank" disabled={rank <= 1} onClick={() => step(-1)} />
          <NumberField
            value={rank} min="1" aria-label="Rank" put={(given) => given >= 1 && change(() => ({ rank: Math.round(given) }))}
          />
          <IconButton icon="plus" label="Raise the rank" onClick={() => step(1)} />
        </span>
      </div>
      <p class="hint">{RANK}</p>
    </>
  );
}

/** The settings of a solver, but for the one that the slider has where there is a curve. */
function Settings({ edit, solver, change }: { edit: Edit; solver: Solver; change: Change }): JSX.Element {
  const settings = Object.entries(solver.settings).filter(([name]) => !solver.curve || name !== "collateral_weight");
  const put = (name: string, given: unknown) =>
    change((now) => ({ solver: spelled({ ...now.solver, [name]: given }, solver.settings) }));
  return (
    <>
      {settings.map(([name, usual]) => (
        <label key={name} class="row">
          <span class="label">{name.replaceAll("_", " ")}</span>
          <Setting usual={usual} value={edit.solver[name] ?? usual} put={(given) => put(name, given)} />
        </label>
      ))}
    </>
  );
}

function Setting({ usual, value, put }: { usual: unknown; value: unknown; put: (given: unknown) => void }): JSX.Element {
  if (typeof usual === "boolean") {
    return <input type="checkbox" checked={Boolean(value)} onChange={(event) => put(event.currentTarget.checked)} />;
  }
  const isWhole = Number.isInteger(usual);
  return <NumberField class="wide" min="0" value={value === null ? "" : String(value)} put={(given) => put(isWhole ? Math.round(given) : given)} />;
}

/** A solver as it is written into a spec: without what it has anyway. */
function spelled(solver: Record<string, unknown>, settings: Record<string, unknown>): unknown {
  const said = Object.entries(solver).filter(([name, value]) => name === "method" || value !== settings[name]);
  return said.length > 1 ? Object.fromEntries(said) : solver["method"];
}
