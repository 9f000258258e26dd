// What the canvas shows of the server: pictures, heat maps and masks, loaded when what they depend on changes.

import { picture, Refused, type Place } from "../api";
import { resource } from "../resource";
import { edit, entry, heat, isPasting, latent, mode, number, place, ROLES, state, tell } from "../store";
import { maskOf } from "./drawing";
import { boundsOf, type Mask } from "./geometry";
import type { Floating } from "./painter";

/** The masks that were read or painted, by the digests that places have. */
export const masks = new Map<string, Mask>();

/** Keys are requests; what follows a # tells apart what the same request gives at different times. */
function pathOf(key: string): string {
  return key.split("#")[0]!;
}

function indexOfEntry(): string {
  return `index=${entry.value ?? 0}`;
}

/** The request for the picture of the present step. */
function pictureKey(): string | null {
  const { model, results } = state.value;
  const [of, at, seen] = [edit.value, latent.value, place.value];
  if (at === null) {
    return seen ? `GET edits/${number.value}/scenes/${ROLES[mode.value]}?${indexOfEntry()}#${seen.mask}` : null;
  }
  if (!isPasting.value || !seen) return `GET images/${model.name}/${model.seed}/${at}`;
  const rule = [of?.id, of?.layer, of?.source?.latent, of?.source?.mask, seen.mask, at, results?.after];
  return `POST edits/${number.value}/composite#${JSON.stringify(rule)}`;
}

async function loadPicture(key: string): Promise<ImageBitmap> {
  const [method, path] = pathOf(key).split(" ") as [string, string];
  try {
    return await picture(method, path);
  } catch (error) {
    tellOnce(error);
    const { model } = state.peek();
    return picture("GET", `images/${model.name}/${model.seed}/${latent.peek() ?? 0}`);
  }
}

function heatKey(): string | null {
  if (!heat.value || mode.value !== "context" || latent.value === null) return null;
  return `edits/${number.value}/heat/${latent.value}#${state.value.revision}`;
}

async function loadHeat(key: string): Promise<ImageBitmap> {
  try {
    return await picture("GET", pathOf(key));
  } catch (error) {
    tellOnce(error);
    throw error;
  }
}

/** Tell why something was refused; what is wrong with the spec stands at its lines already. */
function tellOnce(error: unknown): void {
  if (!(error instanceof Refused)) throw error;
  if (!error.failure.problems.length) tell(error.failure);
}

function loadMask(role: () => string, of: () => Place | null | undefined) {
  const keyOf = () => (of()?.mask ? `edits/${number.value}/masks/${role()}#${of()!.mask}` : null);
  return resource(keyOf, async (key) => {
    const digest = key.split("#")[1]!;
    const known = masks.get(digest);
    if (known) return known;
    const path = pathOf(key);
    const bitmap = await picture("GET", `${path}${path.includes("?") ? "&" : "?"}mask=${digest}`);
    const read = maskOf(bitmap, state.peek().model.image_size);
    masks.set(digest, read);
    return read;
  });
}

export type Loads = ReturnType<typeof loadScene>;

/** Begin to load what the canvas shows. */
export function loadScene() {
  const role = () => (mode.value === "context" ? `context?${indexOfEntry()}` : ROLES[mode.value]);
  const loads = {
    picture: resource(pictureKey, loadPicture),
    heat: resource(heatKey, loadHeat),
    mask: loadMask(role, () => (isPasting.value ? null : place.value)),
    source: loadMask(() => "source", () => (isPasting.value && place.value ? edit.value?.source : null)),
    target: loadMask(() => "target", () => (isPasting.value ? place.value : null)),
  };
  return { ...loads, end: () => Object.values(loads).forEach((load) => load.end()) };
}

/** The mask of the place in sight, by its digest; undefined while it is on its way. */
export function shownMask(loads: Loads): { digest: string; mask: Mask | null } | undefined {
  const digest = isPasting.value ? "" : (place.value?.mask ?? "");
  if (!digest) return { digest, mask: null };
  const known = masks.get(digest);
  if (known) return { digest, mask: known };
  const { key, value } = loads.mask;
  return key.value?.endsWith(`#${digest}`) && value.value ? { digest, mask: value.value } : undefined;
}

/** What is pasted, as far from where it was copied as the spec says. */
export function floatingMask(loads: Loads): Floating | null {
  const [source, target] = [loads.source.value.value, loads.target.value.value];
  if (!isPasting.value || !source || !target) return null;
  const size = state.peek().model.image_size;
  const [from, to] = [boundsOf(source, size), boundsOf(target, size)];
  return { mask: source, right: to.left - from.left, down: to.top - from.top };
}
