// The state of the page: what the server says, what is only here (steps, images in sight), and the gestures that change both.

import { batch, computed, effect, signal, untracked } from "@preact/signals";
import {
  call, listen, Refused, type Edit, type EditResult, type Failure, type Place, type Request, type Role, type State,
} from "./api";

export type Mode = "copy" | "paste" | "context";
export type Stream = "gallery" | "fresh";
export type Compared = "before" | "both" | "after";

export const MODES: Mode[] = ["copy", "paste", "context"];
export const ROLES: Record<Mode, Role> = { copy: "source", paste: "target", context: "context" };

/** What is in sight of an edit: an image for each step, and a place of the context, or a new one. */
export interface Sight {
  latents: Record<Mode, number | null>;
  entry: number | "new" | null;
}

/** The code of a failure to save: another program has changed the file, which may be written over. */
const CHANGED_OUTSIDE = "E607 changed-outside";

export const state = signal<State>(null as unknown as State);
export const mode = signal<Mode>("copy");
export const chosen = signal<number | null>(null);
export const stream = signal<Stream>("gallery");
export const compared = signal<Compared>("both");
export const heat = signal(false);
export const enlarged = signal<number | null>(null);
export const focusedImage = signal(0);
export const lost = signal(false);
export const note = signal("");
export const spoken = signal("");
/** Why a request was refused. */
export const news = signal<Failure | null>(null);
export const dismissed = signal<Failure | null>(null);
/** The number of changes that are on their way to the server. */
export const pending = signal(0);

export const sights = signal<Record<number, Sight>>({});

// -- what follows from it -----------------------------------------------------------------------------------------------

export const edit = computed<Edit | null>(() => {
  const { edits } = state.value;
  return edits.find(({ id }) => id === chosen.value) ?? edits[0] ?? null;
});

/** The number of the chosen edit in the text. */
export const number = computed(() => (edit.value ? state.value.edits.indexOf(edit.value) : -1));

export const sight = computed<Sight>(() => {
  const of = edit.value;
  return (of && sights.value[of.id]) ?? firstSight(of);
});

export const latent = computed(() => sight.value.latents[mode.value]);

/** The number of the place of the context that is in sight; null where the next mask is one more. */
export const entry = computed<number | null>(() => {
  const wanted = sight.value.entry;
  const context = edit.value?.context ?? [];
  if (wanted === "new") return null;
  if (wanted !== null && context[wanted]) return wanted;
  const first = context.findIndex((each) => each.latent === sight.value.latents.context);
  return first < 0 ? null : first;
});

/** The place of the spec that is in sight, if the image in sight is its. */
export const place = computed<Place | null>(() => {
  const of = edit.value;
  if (!of) return null;
  const found = mode.value === "context" ? of.context[entry.value ?? -1] : of[ROLES[mode.value] as "source" | "target"];
  return found && (found.latent === latent.value || found.latent === null) ? found : null;
});

/** Whether what the chosen edit says can be changed here, and not in the text or in another spec alone. */
export const canEdit = computed(() => state.value.readable && !edit.value?.used);

/** Whether what was copied is pasted where a hand can drag it. */
export const isPasting = computed(() => {
  const of = edit.value;
  return mode.value === "paste" && Boolean(of?.source?.mask) && !of?.note && !of?.used;
});

/** Whether a request was refused because another program has changed the file. */
export const isChangedOutside = computed(() => news.value?.code === CHANGED_OUTSIDE);

/** Problems of the text, and those that only the last work could find. */
export const problems = computed(() => [...state.value.problems, ...(state.value.failure?.problems ?? [])]);
export const wrong = computed(() => problems.value.filter((problem) => !problem.unfinished && !problem.warning));
export const warnings = computed(() => problems.value.filter((problem) => problem.warning));
export const unfinished = computed(() => problems.value.filter((problem) => problem.unfinished));

export const canExecute = computed(() => state.value.problems.every(({ warning }) => warning) && state.value.edits.some(({ off }) => !off));

/** Whether nothing of any edit was painted or written yet. */
export const isFresh = computed(() =>
  state.value.edits.every((each) => !each.used && !each.source && !each.target && !each.note && each.context.length === 0 && each.tokens.length === 0));

/** A failure of work, as long as it concerns the spec as it is and was not put aside. */
export const failure = computed(() => (state.value.failure === dismissed.value ? null : state.value.failure));

export function resultOf(of: Edit): EditResult | undefined {
  return state.value.results?.edits.find((result) => result.edit === of.id);
}

function firstSight(of: Edit | null): Sight {
  return {
    latents: { copy: of?.source?.latent ?? null, paste: of?.target?.latent ?? null, context: of?.context[0]?.latent ?? null },
    entry: of?.context.length ? 0 : null,
  };
}

// -- talking to the server ----------------------------------------------------------------------------------------------

let queue: Promise<unknown> = Promise.resolve();

function receive(next: State): void {
  batch(() => {
    if (JSON.stringify(next.failure) !== JSON.stringify(dismissed.value)) dismissed.value = null;
    else if (next.failure) dismissed.value = next.failure;
    state.value = next;
  });
}

/** What became of a request. */
type Ending = "accepted" | "refused" | "unanswered";

async function ask(request: Request, then?: () => void): Promise<Ending> {
  try {
    const next = await call(...request);
    batch(() => {
      receive(next);
      news.value = null;
      then?.();
    });
    return "accepted";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    tell(error.failure);
    if (error.status === 409) receive(await call("GET", "spec").catch(() => state.value));
    return error.status === 0 ? "unanswered" : "refused";
  }
}

/** Do something after all that was begun before it has ended: no answer comes after the answer to a later request. */
function enqueue<T>(act: () => Promise<T>): Promise<T> {
  const done = queue.then(act);
  queue = done.catch(() => undefined);
  return done;
}

/** Do something that changes the spec, in its turn. */
function change<T>(act: () => Promise<T>): Promise<T> {
  pending.value += 1;
  return enqueue(act).finally(() => (pending.value -= 1));
}

/** Make a request in its turn: `make` sees what the changes before have given. Where it gives null, there is nothing to ask. */
function send(make: () => Request | null, then?: () => void): void {
  void change(async () => {
    const request = make();
    if (request) await ask(request, then);
  });
}

/** Make a request about an edit in its turn, when it may have another number and other fields; none where it is gone. */
export function sendTo(id: number, make: (now: Edit, at: number) => Request | null, then?: () => void): void {
  send(() => {
    const at = state.value.edits.findIndex((each) => each.id === id);
    return at < 0 ? null : make(state.value.edits[at]!, at);
  }, then);
}

export function onRevision(fields: Record<string, unknown> = {}): Record<string, unknown> {
  return { revision: state.value.revision, ...fields };
}

/** Send the text that was typed on a revision, which becomes that of the text. Tells whether there was an answer. */
export function write(text: string, typed: { revision: number }): Promise<boolean> {
  return change(async () => {
    const ending = await ask(["PUT", "spec", { revision: typed.revision, text }]);
    // What was typed after a text that was refused is refused, too: it would undo the change that was in the way.
    if (ending === "accepted") typed.revision = state.value.revision;
    return ending !== "unanswered";
  });
}

function refresh(): void {
  void enqueue(async () => receive(await call("GET", "spec").catch(() => state.value)));
}

export function tell(of: Failure): void {
  news.value = of;
}

export function say(words: string): void {
  note.value = words;
}

/** Whether what this page has asked to preserve is to be executed. */
let executesNext = false;

function ended(kind: string, failed: boolean): void {
  // Other work has put the look at traces aside, and the questions.
  if (kind !== "traces" && kind !== "ask") lookedFor = askedFor = "";
  refresh();
  if (kind !== "preserve" || !executesNext) return;
  executesNext = false;
  if (!failed) execute();
}

export async function start(): Promise<void> {
  state.value = await call("GET", "spec");
  const resume = JSON.parse(sessionStorage.getItem("studio") ?? "{}") as { mode?: Mode; chosen?: number };
  mode.value = resume.mode ?? "copy";
  chosen.value = resume.chosen ?? null;
  effect(() => sessionStorage.setItem("studio", JSON.stringify({ mode: mode.value, chosen: edit.value?.id ?? null })));
  effect(lookForTraces);
  effect(askAfterExecute);
  effect(() => {
    document.title = `${state.value.saved ? "" : "• "}${state.value.file} – editspec studio`;
  });
  listen((event) => {
    if (event.event === "changed") {
      if (event.revision !== untracked(() => state.value.revision)) refresh();
    } else if (event.event === "ended") ended(event.kind, event.failure !== null);
    else if (event.event !== "stopping") {
      const { event: _, ...job } = event;
      const isAnswered = job.kind === "ask" && job.done !== untracked(() => state.value.job?.done ?? 0);
      state.value = { ...state.value, job };
      // Answers are shown as they come.
      if (isAnswered) refresh();
    }
  }, (isLost) => {
    lost.value = isLost;
    // Work may have ended before anybody listened.
    if (!isLost) refresh();
  });
}

// -- gestures on edits --------------------------------------------------------------------------------------------------

export function select(id: number | null): void {
  chosen.value = id;
}

export function addEdit(): void {
  send(() => ["POST", "edits", onRevision()], () => select(state.value.edits.at(-1)?.id ?? null));
}

/** Change an edit, from what it says once the changes before have arrived; null changes nothing. */
export function changeEdit(id: number, fieldsOf: (now: Edit, at: number) => Record<string, unknown> | null): void {
  sendTo(id, (now, at) => {
    const fields = fieldsOf(now, at);
    return fields && ["PATCH", `edits/${at}`, onRevision(fields)];
  });
}

export function removeEdit(id: number): void {
  let before = 0;
  sendTo(id, (_, at) => {
    before = Math.max(0, at - 1);
    return ["DELETE", `edits/${at}?revision=${state.value.revision}`];
  }, () => {
    const { edits } = state.value;
    if (!edits.some((each) => each.id === chosen.value)) select(edits[before]?.id ?? null);
  });
}

export function undo(): void {
  send(() => ["POST", "undo", onRevision()]);
}

export function redo(): void {
  send(() => ["POST", "redo", onRevision()]);
}

export function save(overwrite = false): void {
  send(() => ["POST", "save", onRevision({ overwrite })], () => say(`${state.value.file} is saved.`));
}

export function exportPatches(): void {
  send(() => ["POST", "export", onRevision()], () => say("Patches go to the folder build, which git ignores."));
}

export function execute(): void {
  send(() => (canExecute.value ? ["POST", "execute", onRevision()] : null));
}

/** Cancel the work that is under way, now: in the queue may be what waits for it. */
export function cancel(): void {
  executesNext = false;
  begin("cancel", tell);
}

/** Have the server begin something out of turn. The answer may be late: events tell what becomes of it. */
function begin(path: string, refused: (of: Failure) => void): void {
  call("POST", path).catch((error: unknown) => {
    if (!(error instanceof Refused)) throw error;
    refused(error.failure);
  });
}

export function computeCurve(of: EditResult): void {
  send(() => {
    const at = state.value.results?.edits.findIndex(({ edit: id }) => id === of.edit) ?? -1;
    return at < 0 ? null : ["POST", `results/${at}/curve`];
  });
}

let lookedFor = "";

/** Have the server look at unseen images, once for each thing that was executed. */
function lookForTraces(): void {
  const { results, job, revision } = state.value;
  const next = results?.edits.findIndex(({ traces }) => traces === null) ?? -1;
  if (!state.value.model.image_size) return;
  if (!results?.current || job !== null || next < 0) return;
  const wanted = `${results.after} ${revision} ${next}`;
  if (wanted === lookedFor) return;
  lookedFor = wanted;
  // Other work may have begun meanwhile, and goes first.
  begin(`results/${next}/traces`, () => undefined);
}

let askedFor = "";

/** Ask the model about the chosen edit, once for each thing that was executed. Work that was cancelled is not begun again. */
function askAfterExecute(): void {
  const { results, job, revision } = state.value;
  const of = edit.value;
  const isOpen = of?.samples.some(({ before, after }) => [...before, ...after].includes(null));
  if (!of || !results?.current || job !== null || !isOpen) return;
  const wanted = `${results.after} ${revision} ${of.id}`;
  if (wanted === askedFor) return;
  askedFor = wanted;
  begin(`edits/${number.value}/ask`, () => undefined);
}

export function askModel(id: number): void {
  sendTo(id, (_, at) => ["POST", `edits/${at}/ask`]);
}

/** Have images chosen that an edit leaves alone, and execute it. */
export function preserve(id: number): void {
  executesNext = true;
  sendTo(id, (_, at) => ["POST", `edits/${at}/preserve`, onRevision()]);
}

export function forgetPreserved(id: number): void {
  sendTo(id, (_, at) => ["DELETE", `edits/${at}/preserve?revision=${state.value.revision}`]);
}
