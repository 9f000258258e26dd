// The API as docs/studio.md and /api/openapi.json describe it: its types, requests in order, and events.

export type Role = "source" | "target" | "context";

export interface Problem {
  message: string;
  path: string;
  line: number;
  column: number;
  hint: string;
}

export interface Failure {
  message: string;
  hint: string;
  problems: Problem[];
}

export interface Place {
  latent: number | null;
  words: string;
  mask: string;
}

export interface Edit {
  name: string;
  layer: string;
  rank: number;
  solver: Record<string, unknown>;
  off: boolean;
  line: number;
  source: Place | null;
  target: Place | null;
  context: Place[];
  note: string;
}

export interface CurvePoint {
  collateral_weight: number;
  loss: number;
  residual: number;
  collateral: number;
}

export interface EditResult {
  name: string;
  layer: string;
  rank: number | null;
  method: string;
  status: string;
  loss: number;
  residual: number | null;
  collateral: number;
  warnings: string[];
  seconds: number;
  digest: string;
  curve: CurvePoint[] | null;
  traces: { share: number; low: number; high: number } | null;
}

export interface Match {
  latent: number;
  score: number;
  box: [number, number, number, number];
}

export interface Job {
  kind: string;
  what: string;
  done: number;
  total: number;
}

export interface State {
  revision: number;
  file: string;
  text: string;
  saved: boolean;
  changed_outside: boolean;
  problems: Problem[];
  edits: Edit[];
  model: {
    name: string;
    weights: string;
    digest: string;
    layers: { name: string; in_channels: number; out_channels: number; key_size: number; value_size: number }[];
    image_size: number;
    seed: number;
    fresh_seed: number;
  };
  solvers: { method: string; settings: Record<string, unknown>; rank: boolean; context: boolean; curve: boolean }[];
  collateral_weight: number[];
  can_undo: boolean;
  can_redo: boolean;
  results: { current: boolean; after: string; edits: EditResult[] } | null;
  found: Record<string, Match[]>;
  job: Job | null;
  failure: Failure | null;
}

export type Event =
  | { event: "changed"; revision: number }
  | ({ event: "begun" | "progress" } & Job)
  | { event: "ended"; kind: string; failure: Failure | null }
  | { event: "stopping" };

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
  const answer = await fetch(`/api/${path}`, {
    method,
    headers: { Authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? null : JSON.stringify(body),
  }).catch(() => {
    throw new Refused(0, {
      message: "The studio does not answer.",
      hint: "Start editspec studio again; nothing is lost.",
      problems: [],
    });
  });
  if (!answer.ok) {
    const said = (await answer.json().catch(() => null)) as Failure | null;
    throw new Refused(answer.status, said ?? { message: answer.statusText, hint: "", problems: [] });
  }
  return answer;
}

export async function call(method: string, path: string, body?: unknown): Promise<State> {
  return (await (await request(method, path, body)).json()) as State;
}

export async function picture(method: string, path: string, body?: unknown): Promise<ImageBitmap> {
  return createImageBitmap(await (await request(method, path, body)).blob());
}

export function listen(hear: (event: Event) => void, lost: (lost: boolean) => void): void {
  const source = new EventSource(address("events"));
  source.onmessage = (message) => hear(JSON.parse(message.data as string) as Event);
  source.onopen = () => lost(false);
  source.onerror = () => lost(true);
}
