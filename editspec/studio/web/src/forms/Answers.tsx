// What the model answers before and after the edits: the panel beside the form.

import type { ComponentChildren, JSX } from "preact";
import type { Edit, Sample } from "../api";
import { TextButton } from "../components/controls";
import { askModel, cancel, edit as chosenEdit, state } from "../store";

export interface Roles {
  role: string;
  title: string;
}

interface Properties {
  title: string;
  /** What the button says that asks. */
  verb: string;
  roles: Roles[];
  /** What stands there as long as there is nothing to ask. */
  empty: string;
  show: (samples: Sample[]) => ComponentChildren;
}

export function Answers({ title, verb, roles, empty, show }: Properties): JSX.Element {
  const edit = chosenEdit.value;
  const { results } = state.value;
  const groups = roles.map((each) => ({ ...each, samples: (edit?.samples ?? []).filter(({ role }) => role === each.role) }));
  const isAsked = edit?.samples.some(({ before }) => before.some((each) => each !== null));
  return (
    <section class="panel gallery-panel" aria-label={title}>
      <header class="panel-title gallery-head">
        <h2>{title}</h2>
        <Asking verb={verb} edit={edit} />
      </header>
      <div class={`answers ${results && !results.current ? "stale" : ""}`} tabIndex={0} role="group" aria-label={`${title}, before and after`}>
        {edit && edit.samples.length > 0 && !results && (
          <p class="hint">{isAsked ? "Execute shows them after the edit, too." : `${verb} shows them before the edit, Execute before and after.`}</p>
        )}
        {results && !results.current && <p class="hint" role="status">The spec has changed since it was executed: after is as it was then.</p>}
        {groups.filter(({ samples }) => samples.length > 0).map(({ role, title: words, samples }) => (
          <section key={role} aria-label={words}>
            <h3>{words}</h3>
            {show(samples)}
          </section>
        ))}
        {!edit?.samples.length && <p class="hint">{empty}</p>}
      </div>
    </section>
  );
}

function Asking({ verb, edit }: { verb: string; edit: Edit | null }): JSX.Element {
  const { job, readable } = state.value;
  if (job?.kind === "ask") {
    return (
      <span class="asking">
        <progress max={job.total || 1} value={job.done} aria-label={job.what || verb} />
        <span class="job-words">{job.total ? `${job.done}/${job.total}` : ""}</span>
        <button type="button" onClick={cancel}>Cancel</button>
      </span>
    );
  }
  const isOpen = edit?.samples.some(({ before, after }) => [...before, ...after].some((each) => each === null));
  return (
    <TextButton icon="search" disabled={job !== null || !readable || !isOpen} onClick={() => edit && askModel(edit.id)}>{verb}</TextButton>
  );
}
