// The spec's text beside its line numbers, with the compiler's errors at their lines.

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Problem } from "../api";
import { canvas } from "../canvases";
import { edit as chosenEdit, problems, state, unfinished, warnings, write, wrong } from "../store";

const PAUSE = 350;
const LINE_HEIGHT = 18;

/** Lines beyond which colours cost more than they show. */
const MANY_LINES = 4000;

/** The text in the field, which is ahead of the server's while it is typed. */
function useText(): { text: string; type: (text: string) => void; flush: () => void } {
  const [typed, setTyped] = useState<string | null>(null);
  const work = useRef({ timer: 0, sending: 0, revision: 0, text: "", isUnanswered: false }).current;
  if (typed === null) work.revision = state.value.revision;
  const send = () => {
    clearTimeout(work.timer);
    work.timer = 0;
    work.sending += 1;
    void write(work.text, work).then((isAnswered) => {
      work.sending -= 1;
      work.isUnanswered = !isAnswered;
      // What was typed meanwhile stays, and is sent next; what nobody has answered stays, too.
      if (isAnswered && work.timer === 0 && work.sending === 0) setTyped(null);
    });
  };
  const type = (text: string) => {
    work.text = text;
    setTyped(text);
    clearTimeout(work.timer);
    work.timer = window.setTimeout(send, PAUSE);
  };
  return { text: typed ?? state.value.text, type, flush: () => (work.timer !== 0 || work.isUnanswered) && send() };
}

export function SpecPane(): JSX.Element {
  const { text, type, flush } = useText();
  const area = useRef<HTMLTextAreaElement>(null);
  const page = useRef<HTMLDivElement>(null);
  const lines = text.split("\n");
  const bad = new Set(wrong.value.map(({ line }) => line));
  const [first, last] = linesOfEdit(lines);
  const follow = () => {
    const { scrollTop, scrollLeft } = area.current!;
    for (const each of page.current!.querySelectorAll<HTMLElement>("[data-follows]")) {
      each.scrollTop = scrollTop;
      each.scrollLeft = scrollLeft;
    }
  };
  useLayoutEffect(() => {
    const field = area.current!;
    if (field.value === text) return;
    const { selectionStart, selectionEnd, scrollTop } = field;
    field.value = text;
    field.setSelectionRange(selectionStart, selectionEnd);
    field.scrollTop = scrollTop;
  }, [text]);
  useLayoutEffect(follow, [text, first, last]);
  useEffect(() => {
    if (document.activeElement !== area.current) bringIntoSight(area.current!, first, last);
  }, [chosenEdit.value?.id]);
  const goTo = (line: number) => {
    const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    area.current!.focus();
    area.current!.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
    area.current!.scrollTop = Math.max(0, (line - 3) * LINE_HEIGHT);
  };
  const classOf = (line: number) =>
    `line ${bad.has(line) ? "bad" : ""} ${line >= first && line <= last ? "of-edit" : ""}`;
  return (
    <section class="editor" aria-label="Spec">
      <header class="panel-title"><h2>Spec</h2><Count /></header>
      <div class="editor-body" ref={page}>
        <div class="editor-numbers" aria-hidden="true" data-follows>
          {lines.map((_, index) => <span key={index} class={bad.has(index + 1) ? "bad" : ""}>{index + 1}</span>)}
        </div>
        <div class="editor-page">
          <pre class="editor-colours" aria-hidden="true" data-follows>
            {lines.map((line, index) => (
              <span key={index} class={classOf(index + 1)}>{lines.length > MANY_LINES ? line : coloured(line)}{"\n"}</span>
            ))}
          </pre>
          <textarea
            ref={area} class="editor-text" aria-label="Text of the spec" spellcheck={false} wrap="off" autocomplete="off"
            autocapitalize="off" aria-invalid={wrong.value.length > 0} onScroll={follow} onBlur={flush}
            onInput={(event) => type(event.currentTarget.value)}
          />
        </div>
      </div>
      {problems.value.length > 0 && (
        <ul class="problems" aria-label="Problems" role="list">
          {[...wrong.value, ...unfinished.value, ...warnings.value].map((problem, index) => (
            <Line key={index} problem={problem} goTo={goTo} />
          ))}
        </ul>
      )}
    </section>
  );
}

/** How much is wrong, and how much is still to be done. */
function Count(): JSX.Element {
  const [bad, steps, doubts] = [wrong.value.length, unfinished.value.length, warnings.value.length];
  const words = [
    bad ? `${bad} ${bad > 1 ? "problems" : "problem"}` : "",
    steps ? `${steps} ${steps > 1 ? "steps" : "step"} left` : "",
    doubts ? `${doubts} ${doubts > 1 ? "warnings" : "warning"}` : "",
  ].filter(Boolean);
  return <span class={`count ${bad ? "bad" : ""}`} role="status">{words.join(", ") || "no problems"}</span>;
}

function Line({ problem, goTo }: { problem: Problem; goTo: (line: number) => void }): JSX.Element {
  const { line, path, message, hint, unfinished, warning } = problem;
  const words = path && !message.includes(path) ? `${path}: ${message}` : message;
  return (
    <li>
      <button type="button" class={`problem ${unfinished ? "todo" : ""} ${warning ? "doubt" : ""}`} onClick={() => goTo(line || 1)}>
        <span class="problem-place">{line ? `line ${line}` : "spec"}</span>
        <span>{unfinished ? stepWords(problem) : words}</span>
        {hint && !unfinished && <span class="problem-hint">{hint}</span>}
      </button>
    </li>
  );
}

/** The step that an edit still needs. */
function stepWords({ line, path, message }: Problem): string {
  const name = state.value.edits.findLast((each) => each.line <= line)?.name ?? "the edit";
  const { source, target } = canvas.value.steps;
  return `${name}: ${path.includes("source") ? source : path.includes("target") ? target : message}`;
}

/** The first and the last line of the chosen edit, from 1; nothing where the text is ahead of what is known of it. */
function linesOfEdit(lines: string[]): [number, number] {
  const edit = chosenEdit.value;
  if (!edit || !state.value.readable) return [0, -1];
  const next = state.value.edits.map(({ line }) => line).filter((line) => line > edit.line);
  // The keys behind the edits stand at the margin.
  const outside = lines.findIndex((line, index) => index >= edit.line && /^[^\s#-]/.test(line));
  let last = Math.min(...next, outside < 0 ? lines.length + 1 : outside + 1) - 1;
  const isOutside = (line: string) => !line.trim() || line.trim().startsWith("#");
  // Comments above an edit belong to it.
  while (last > edit.line && !edit.off && isOutside(lines[last - 1] ?? "")) last -= 1;
  return [edit.line, last];
}

function bringIntoSight(area: HTMLTextAreaElement, first: number, last: number): void {
  const [top, bottom] = [(first - 1) * LINE_HEIGHT, last * LINE_HEIGHT];
  const isSeen = top >= area.scrollTop && bottom <= area.scrollTop + area.clientHeight;
  if (first > 0 && !isSeen) area.scrollTop = Math.max(0, top - LINE_HEIGHT);
}

const PARTS = /(#.*$)|([A-Za-z_][\w-]*)(?=\s*:)|("(?:[^"\\]|\\.)*"|'[^']*')|(?<![\w.-])(-?\d[\d.e+-]*)(?![\w.-])/g;
const KINDS = ["comment", "key", "string", "number"];

/** A line of YAML in the colours of its parts. */
function coloured(line: string): (JSX.Element | string)[] {
  const found: (JSX.Element | string)[] = [];
  let end = 0;
  for (const match of line.matchAll(PARTS)) {
    found.push(line.slice(end, match.index));
    const kind = KINDS[match.slice(1).findIndex((part) => part !== undefined)]!;
    found.push(<span key={match.index} class={`yaml-${kind}`}>{match[0]}</span>);
    end = match.index + match[0].length;
  }
  found.push(line.slice(end));
  return found;
}
