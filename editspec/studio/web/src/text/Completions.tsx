// What the model goes on with, before and after the edits.

import type { JSX } from "preact";
import type { Sample } from "../api";
import { Answers } from "../forms/Answers";
import { state } from "../store";
import { partsOf, verdictOf, type Verdict } from "./facts";

const ROLES = [
  { role: "own", title: "What is edited" },
  { role: "paraphrase", title: "In other words" },
  { role: "neighbour", title: "What must stay" },
];

const VERDICTS: Record<Verdict, string> = { holds: "holds", fails: "does not hold", kept: "as before", changed: "changed", "": "" };

export function Completions(): JSX.Element {
  return (
    <Answers
      title="Completions" verb="Ask the model" roles={ROLES} show={(samples) => <Table samples={samples} />}
      empty="Write a prompt and its subject: what the model goes on with is shown here."
    />
  );
}

function Table({ samples }: { samples: Sample[] }): JSX.Element {
  const hasAfter = state.value.results !== null;
  return (
    <table class="completions">
      <thead><tr><th>Prompt</th><th>Before</th>{hasAfter && <th class="after">After</th>}</tr></thead>
      <tbody>
        {samples.map((sample) => {
          const verdict = verdictOf(sample);
          return (
            <tr key={sample.words}>
              <th scope="row">{sample.words}</th>
              <td><Said answer={sample.before[0]} wanted="" /></td>
              {hasAfter && (
                <td class="after">
                  <Said answer={sample.after[0]} wanted={sample.wanted} />
                  {verdict && <span class={`verdict verdict-${verdict}`}>{VERDICTS[verdict]}</span>}
                </td>
              )}
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

function Said({ answer, wanted }: { answer: string | null | undefined; wanted: string }): JSX.Element {
  if (answer == null) return <span class="aside">–</span>;
  const [head, rest] = partsOf(answer, wanted);
  return <><strong>{head}</strong><span class="aside">{rest}</span></>;
}
