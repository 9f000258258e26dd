// What the model draws for prompts, before and after the edits.

import type { JSX } from "preact";
import { address, type Sample } from "../api";
import { Answers } from "../forms/Answers";
import { state } from "../store";

const ROLES = [
  { role: "own", title: "What is edited" },
  { role: "paraphrase", title: "In other words" },
  { role: "neighbour", title: "What must stay" },
];

export function Pictures(): JSX.Element {
  return (
    <Answers
      title="Pictures" verb="Draw" roles={ROLES} show={(samples) => samples.map((sample) => <Drawn key={sample.words} sample={sample} />)}
      empty="Write a concept: what the model draws for it is shown here."
    />
  );
}

function Drawn({ sample }: { sample: Sample }): JSX.Element {
  const hasAfter = state.value.results !== null;
  return (
    <figure class="drawn">
      <figcaption>{sample.words}</figcaption>
      <div class="drawn-rows">
        <Row title="Before" words={sample.words} names={sample.before} />
        {hasAfter && <Row title="After" words={sample.words} names={sample.after} />}
      </div>
    </figure>
  );
}

function Row({ title, words, names }: { title: string; words: string; names: (string | null)[] }): JSX.Element {
  return (
    <div class={`drawn-row ${title.toLowerCase()}`}>
      <span class="aside">{title}</span>
      {names.map((name, index) => (name === null
        ? <span key={index} class="drawn-blank" />
        : <img key={index} src={address(`answers/${name}`)} alt={`${title.toLowerCase()}: ${words}, ${index + 1}`} />))}
    </div>
  );
}
