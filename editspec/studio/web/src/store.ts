// The state of the page: what the server says, what is only here (steps, images in sight), and the gestures that change both.

import { batch, computed, effect, signal, untracked } from "@preact/signals";
import { call, listen, Refused, type Edit, type EditResult, type Failure, type Match, type Place, type Role, type State } from "./api";

export type Mode = "copy" | "paste" | "context";
export type Stream = "gallery" | "fresh";
export type Compared = "before" | "both" | "after";

export const MODES: Mode[] = ["copy", "paste", "context"];
export const ROLES: Record<Mode, Role> = { copy: "source", paste: "target", context: "context" };

/** What is in sight of an edit: an image for each step, and a place of the context, or a new one. */
interface Sight {
  latents: Record<Mode, number | null>;
  entry: number | "new" | null;
}

/** A message about a request that was refused. */
interface News {
  failure: Failure;
  /** Whether the file was changed by another program, and may be written over. */
  changedOutside: boolean;
}

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
export const news = signal<News | null>(null);
export const dismissed = signal<Failure | null>(null);
/** The number of changes that are on their way to the server. */
export const pending = signal(0);

const sights = signal<Record<number, Sight>>({});

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

/** Whether what was copied is pasted where a hand can drag it. */
export const isPasting = computed(() => {
  const of = edit.value;
  return mode.value === "paste" && Boolean(of?.source?.mask) && !of?.note;
});

/** Problems of the text, and those that only the last work could find. */
export const problems = computed(() => [...state.value.problems, ...(state.value.failure?.problems ?? [])]);
export const wrong = computed(() => problems.value.filter((problem) => !problem.unfinished && !problem.warning));
export const warnings = computed(() => problems.value.filter((problem) => problem.warning));
export const unfinished = computed(() => problems.value.filter((problem) => problem.unfinished));

export const canExecute = computed(() => state.value.problems.every(({ warning }) => warning) && state.value.edits.some(({ off }) => !off));

/** Whether nothing of any edit was painted or written yet. */
export const isFresh = computed(() =>
  state.value.edits.every((each) => !each.source && !each.target && !each.note && each.context.length === 0 && each.tokens.length === 0));

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

async function ask(request: () => Promise<State>, then?: () => void): Promise<void> {
  try {
    const next = await request();
    batch(() => {
      receive(next);
      news.value = null;
      then?.();
    });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    tell(error.failure);
    if (error.status === 409) receive(await call("GET", "spec").catch(() => state.value));
  }
}

/** Send a change, after those before it, on the revision that they gave. */
function send(method: string, path: string, fields: Record<string, unknown> | null, then?: () => void): void {
  pending.value += 1;
  queue = queue.then(() => ask(() => {
    const { revision } = state.value;
    if (fields === null) return call(method, `${path}${path.includes("?") ? "&" : "?"}revision=${revision}`);
    return call(method, path, { revision, ...fields });
  }, then)).finally(() => (pending.value -= 1));
}

/** Send the text that was typed, on the revision that it was typed on; gives the revision that it became. */
export async function write(text: string, base: () => number): Promise<number> {
  queue = queue.then(() => ask(() => call("PUT", "spec", { revision: base(), text })));
  await queue;
  return state.value.revision;
}

function refresh(): void {
  queue = queue.then(async () => receive(await call("GET", "spec").catch(() => state.value)));
}

export function tell(of: Failure): void {
  news.value = { failure: of, changedOutside: of.message.includes("outside of the studio") };
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
  if (!failed) send("POST", "execute", {});
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
  }, (isLost) => (lost.value = isLost));
  refresh();
}

// -- gestures on edits --------------------------------------------------------------------------------------------------

export function select(id: number | null): void {
  chosen.value = id;
}

export function addEdit(): void {
  send("POST", "edits", {}, () => select(state.value.edits.at(-1)?.id ?? null));
}

export function changeEdit(at: number, fields: Record<string, unknown>): void {
  send("PATCH", `edits/${at}`, fields);
}

/** Change fields of an edit, from what it says once the changes before have arrived. */
export function changeFields(id: number, change: (given: Edit["given"]) => Record<string, unknown>): void {
  pending.value += 1;
  queue = queue.then(() => {
    const at = state.value.edits.findIndex((each) => each.id === id);
    const fields = at < 0 ? {} : change(state.value.edits[at]!.given);
    if (Object.keys(fields).length === 0) return;
    return ask(() => call("PATCH", `edits/${at}`, { revision: state.value.revision, fields }));
  }).finally(() => (pending.value -= 1));
}

export function removeEdit(at: number): void {
  send("DELETE", `edits/${at}`, null, () => {
    const { edits } = state.value;
    if (!edits.some(({ id }) => id === chosen.value)) select(edits[Math.max(0, at - 1)]?.id ?? null);
  });
}

export function undo(): void {
  send("POST", "undo", {});
}

export function redo(): void {
  send("POST", "redo", {});
}

export function save(overwrite = false): void {
  send("POST", "save", { overwrite }, () => say(`${state.value.file} is saved.`));
}

export function exportPatches(): void {
  send("POST", "export", {}, () => say("Patches go to the folder build, which git ignores."));
}

export function execute(): void {
  if (canExecute.value) send("POST", "execute", {});
}

export function cancel(): void {
  void ask(() => call("POST", "cancel"));
}

export function computeCurve(result: EditResult): void {
  const at = state.value.results!.edits.indexOf(result);
  void ask(() => call("POST", `results/${at}/curve`));
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
  call("POST", `results/${next}/traces`).then(receive, () => undefined);
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
  call("POST", `edits/${number.value}/ask`).then(receive, () => undefined);
}

export function askModel(at: number): void {
  void ask(() => call("POST", `edits/${at}/ask`));
}

/** Have images chosen that an edit leaves alone, and execute it. */
export function preserve(at: number): void {
  executesNext = true;
  send("POST", `edits/${at}/preserve`, {});
}

export function forgetPreserved(at: number): void {
  send("DELETE", `edits/${at}/preserve`, null);
}

// -- gestures on places -------------------------------------------------------------------------------------------------

export function enter(next: Mode): void {
  batch(() => {
    mode.value = next;
    const target = edit.value?.target?.latent ?? null;
    if (next === "context" && latent.value === null && target !== null) look({ latent: target });
  });
}

/** Bring an image into sight of the present step, or a place of the context. */
function look(at: { latent: number; entry?: number | null }): void {
  const of = edit.value;
  if (!of) return;
  const latents = { ...sight.value.latents, [mode.value]: at.latent };
  sights.value = { ...sights.value, [of.id]: { latents, entry: at.entry ?? null } };
}

/** Choose an image of the gallery for the present step. */
export function chooseImage(image: number): void {
  const of = edit.value;
  if (stream.value === "fresh") {
    say("Fresh samples are only looked at: a spec names images of the gallery.");
    return;
  }
  if (!of) {
    say("Add an edit first.");
    return;
  }
  const pastes = isPasting.value && of.target?.latent !== image && state.value.readable;
  look({ latent: image });
  if (pastes) pasteAt(image, 0, 0);
}

/** Show a place of the context. */
export function openEntry(at: number): void {
  const found = edit.value?.context[at];
  if (found?.latent != null) look({ latent: found.latent, entry: at });
  else setEntry(at);
}

/** Begin one more region of the image in sight. */
export function addRegion(): void {
  setEntry("new");
}

function setEntry(at: Sight["entry"]): void {
  const of = edit.value;
  if (of) sights.value = { ...sights.value, [of.id]: { ...sight.value, entry: at } };
}

/** Write the mask that was painted on the image in sight. `written` is called with the place that it became. */
export function putMask(mask: string, written: (place: Place | null) => void): void {
  const [of, image] = [edit.value, latent.value];
  if (!of || image === null) return;
  const fields: Record<string, unknown> = { latent: image, mask };
  const isNew = mode.value === "context" && entry.value === null;
  if (mode.value === "context" && !isNew) fields["index"] = entry.value;
  send("PUT", `edits/${number.value}/places/${ROLES[mode.value]}`, fields, () => {
    const now = state.value.edits.find(({ id }) => id === of.id);
    if (isNew && now && edit.value?.id === of.id) setEntry(now.context.length - 1);
    written(place.value);
  });
}

export function removePlace(): void {
  if (!place.value) return;
  const query = mode.value === "context" ? `?index=${entry.value ?? 0}` : "";
  if (mode.value === "context") setEntry(null);
  send("DELETE", `edits/${number.value}/places/${ROLES[mode.value]}${query}`, null);
}

export function removeContext(at: number): void {
  send("DELETE", `edits/${number.value}/places/context?index=${at}`, null, () => {
    if (edit.value?.context.length) openEntry(0);
    else setEntry(null);
  });
}

/** The places of a search that were added. The next state has places of its own. */
const adding = new WeakSet<Match>();

export function addMatch(match: Match): void {
  // The second press of a double click adds nothing.
  if (adding.has(match)) return;
  adding.add(match);
  send("PUT", `edits/${number.value}/places/context`, { latent: match.latent, mask: { box: match.box } });
}

export function search(): void {
  void ask(() => call("POST", `edits/${number.value}/search`));
}

export function pasteAt(image: number, right: number, down: number): void {
  send("POST", `edits/${number.value}/paste`, { latent: image, right, down });
}
