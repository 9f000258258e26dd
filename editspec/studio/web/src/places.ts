// What is done to the places of an edit: which are in sight, what is painted on them, and which come and go.

import { batch } from "@preact/signals";
import type { Edit, Match, Place, Role } from "./api";
import {
  canEdit, edit, entry, isPasting, latent, mode, onRevision, place, ROLES, say, sendTo, sight, sights, state, stream, type Mode, type Sight,
} from "./store";

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
  const pastes = isPasting.value && of.target?.latent !== image && canEdit.value;
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

/** The number that a place of the context has by now, when it may be repainted, and others may be gone; null without it. */
function follow(context: Place[], seen: Place, index: number): number | null {
  const isSame = (place?: Place) => place?.latent === seen.latent && place.mask === seen.mask;
  const isNear = (place?: Place) => place?.latent === seen.latent;
  for (const fits of [isSame, isNear]) {
    const found = fits(context[index]) ? index : context.findIndex(fits);
    if (found >= 0) return found;
  }
  return null;
}

/** A new region of the context: until the spec has it, all strokes on its image belong to it. */
interface Region {
  edit: number;
  latent: number;
  index: number | null;
}

let begun: Region | null = null;

function beginRegion(of: number, image: number): Region {
  if (begun?.edit !== of || begun.latent !== image) begun = { edit: of, latent: image, index: null };
  return begun;
}

/** Take a region of the context into sight that the spec has by now, unless something else was chosen meanwhile. */
function endRegion(region: Region, index: number): void {
  region.index = index;
  if (begun === region) begun = null;
  const seen = sights.value[region.edit];
  const isInSight = seen?.latents.context === region.latent && typeof seen.entry !== "number";
  if (isInSight) sights.value = { ...sights.value, [region.edit]: { ...seen, entry: index } };
}

/** Write the mask that was painted on the image in sight. `written` is called with the place that it became. */
export function putMask(mask: string, written: (place: Place | null) => void): void {
  const [of, image, role, seen, index] = [edit.value, latent.value, ROLES[mode.value], place.value, entry.value];
  if (!of || image === null) return;
  const region = role === "context" && index === null ? beginRegion(of.id, image) : null;
  let at = 0;
  sendTo(of.id, ({ context }, number) => {
    const known = region ? region.index : seen && follow(context, seen, index ?? 0);
    at = known ?? context.length;
    const isThere = role === "context" && known !== null;
    return ["PUT", `edits/${number}/places/${role}`, onRevision({ latent: image, mask, ...(isThere ? { index: at } : {}) })];
  }, () => {
    if (region) endRegion(region, at);
    const now = state.value.edits.find(({ id }) => id === of.id);
    written((role === "context" ? now?.context[at] : now?.[role]) ?? null);
  });
}

/** Places that are on their way out: a second press removes no other. */
const leaving = new WeakSet<Place>();

function remove(of: Edit, role: Role, seen: Place, index: number, then?: () => void): void {
  if (leaving.has(seen)) return;
  leaving.add(seen);
  sendTo(of.id, ({ context }, number) => {
    const at = role === "context" ? follow(context, seen, index) : 0;
    return at === null ? null : ["DELETE", `edits/${number}/places/${role}?index=${at}&revision=${state.value.revision}`];
  }, then);
}

export function removePlace(): void {
  const [of, seen, index] = [edit.value, place.value, entry.value];
  if (!of || !seen) return;
  if (mode.value === "context") setEntry(null);
  remove(of, ROLES[mode.value], seen, index ?? 0);
}

export function removeContext(index: number): void {
  const of = edit.value;
  const seen = of?.context[index];
  if (!of || !seen) return;
  remove(of, "context", seen, index, () => {
    if (edit.value?.id !== of.id) return;
    if (edit.value.context.length) openEntry(0);
    else setEntry(null);
  });
}

/** The places of a search that were added. The next state has places of its own. */
const adding = new WeakSet<Match>();

export function addMatch(match: Match): void {
  const of = edit.value;
  // The second press of a double click adds nothing.
  if (adding.has(match)) return;
  adding.add(match);
  const { latent: image, box } = match;
  if (of) sendTo(of.id, (_, at) => ["PUT", `edits/${at}/places/context`, onRevision({ latent: image, mask: { box } })]);
}

export function search(): void {
  if (edit.value) sendTo(edit.value.id, (_, at) => ["POST", `edits/${at}/search`]);
}

export function pasteAt(image: number, right: number, down: number): void {
  const of = edit.value;
  if (of) sendTo(of.id, (_, at) => ["POST", `edits/${at}/paste`, onRevision({ latent: image, right, down })]);
}
