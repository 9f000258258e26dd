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

async function request(method: string, path: string, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const content = body === undefined ? null : JSON.stringify(body);
  const answer = await fetch(`/api/${path}`, { method, headers, body: content }).catch(() => {
    throw new Refused(0, {
      message: "The studio does not answer.",
      hint: "Start editspec studio again; nothing is lost.",
      problems: [],
    });
  });
  if (!answer.ok) {
    const failure = (await answer.json().catch(() => null)) as Failure | null;
    throw new Refused(answer.status, failure ?? { message: answer.statusText, hint: "", problems: [] });
  }
  return answer;
}

export async function call(method: string, path: string, body?: unknown): Promise<State> {
  return (await (await request(method, path, body)).json()) as State;
}

export async function picture(method: string, path: string, body?: unknown): Promise<ImageBitmap> {
  return createImageBitmap(await (await request(method, path, body)).blob());
}

export function listen(hear: (event: StudioEvent) => void, lost: (lost: boolean) => void): void {
  const source = new EventSource(address("events"));
  source.onmessage = (message) => hear(JSON.parse(message.data as string) as StudioEvent);
  source.onopen = () => lost(false);
  source.onerror = () => lost(true);
}
