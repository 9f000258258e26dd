// Requests to the API. The types are those of openapi.json, which the server's code gives.

import type { components } from "./openapi";

type Schemas = components["schemas"];

export type State = Schemas["State"];
export type Edit = Schemas["EditState"];
export type EditResult = Schemas["EditResult"];
export type CurvePoint = Schemas["CurvePoint"];
export type Sample = Schemas["Sample"];
export type Place = Schemas["PlaceState"];
export type Match = Schemas["Match"];
export type Problem = Schemas["FoundProblem"];
export type Failure = Schemas["Failure"];
export type Solver = Schemas["SolverState"];
export type StudioEvent = Schemas["StudioEvent"];

/** Method, path and body. */
export type Request = [method: string, path: string, body?: unknown];

export type Role = "source" | "target" | "context";

/** An answer that says why something was not done. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly failure: Failure,
  ) {
    super(failure.message);
  }
}

const token = new URLSearchParams(location.search).get("token") ?? "";

/** An address with the token, for what takes no headers: images and events. */
export function address(path: string): string {
  return `/api/${path}${path.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}`;
}

export function imageAddress(generator: string, seed: number, latent: number): string {
  return address(`images/${generator}/${seed}/${latent}`);
}

const UNANSWERED: Failure = {
  code: "",
  message: "The studio does not answer.",
  hint: "Start editspec studio again; nothing is lost.",
  problems: [],
};

/** Refuse, under the status 0, what no answer came to, or not all of it. */
function unanswered(): never {
  throw new Refused(0, UNANSWERED);
}

async function request(...[method, path, body]: Request): Promise<Response> {
  const headers: Record<string, string> = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const content = body === undefined ? null : JSON.stringify(body);
  const answer = await fetch(`/api/${path}`, { method, headers, body: content }).catch(unanswered);
  if (!answer.ok) {
    const failure = (await answer.json().catch(() => null)) as Failure | null;
    throw new Refused(answer.status, failure ?? { code: "", message: answer.statusText, hint: "", problems: [] });
  }
  return answer;
}

export async function call(...asked: Request): Promise<State> {
  const answer = await request(...asked);
  return (await answer.json().catch(unanswered)) as State;
}

export async function picture(...asked: Request): Promise<ImageBitmap> {
  const answer = await request(...asked);
  return createImageBitmap(await answer.blob().catch(unanswered));
}

export function listen(hear: (event: StudioEvent) => void, lost: (lost: boolean) => void): void {
  const source = new EventSource(address("events"));
  source.onmessage = (message) => hear(JSON.parse(message.data as string) as StudioEvent);
  source.onopen = () => lost(false);
  source.onerror = () => lost(true);
}
