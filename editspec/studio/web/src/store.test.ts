// What the page makes of answers that are late, and of gestures that come before them. Each test says when an answer comes.

import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Edit, Place, State } from "./api";

interface Asked {
  method: string;
  path: string;
  body: Record<string, unknown>;
  answer: (next: State) => Promise<void>;
  refuse: (status: number, code?: string, message?: string) => Promise<void>;
  lose: () => Promise<void>;
}

let asked: Asked[] = [];
let hear: (event: unknown) => void;
let connect: () => void;

/** Until everything that follows from an answer has happened. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
}

function respond(status: number, content: unknown): Response {
  return new Response(JSON.stringify(content), { status });
}

function fetched(address: string, { method, body }: RequestInit): Promise<Response> {
  return new Promise((resolve, reject) => {
    const close = async (end: () => void) => {
      end();
      // The body of an answer is read by and by.
      await new Promise((done) => setTimeout(done, 0));
      await settle();
    };
    asked.push({
      method: method!,
      path: address.replace("/api/", ""),
      body: JSON.parse((body ?? "{}") as string) as Record<string, unknown>,
      answer: (next) => close(() => resolve(respond(200, next))),
      refuse: (status, code = "E908 usage", message = "no") =>
        close(() => resolve(respond(status, { code, message, hint: "", problems: [] }))),
      lose: () => close(() => reject(new TypeError("gone"))),
    });
  });
}

class Events {
  onmessage: (message: { data: string }) => void = () => undefined;
  onopen: () => void = () => undefined;
  onerror: () => void = () => undefined;

  constructor() {
    hear = (event) => this.onmessage({ data: JSON.stringify(event) });
    connect = () => this.onopen();
  }
}

function edit(id: number, fields: Partial<Edit> = {}): Edit {
  const nothing = { off: false, source: null, target: null, context: [], note: "", used: "", tokens: [], samples: [], given: {}, solver: {} };
  return { id, name: `edit-${id}`, layer: "layer6", rank: 1, ...nothing, ...fields } as unknown as Edit;
}

function stateAt(revision: number, edits: Edit[], fields: Partial<State> = {}): State {
  const rest = { problems: [], failure: null, results: null, job: null, file: "edits.yaml", saved: false, readable: true };
  return { revision, edits, text: `text ${revision}`, model: { image_size: 64 }, ...rest, ...fields } as unknown as State;
}

function place(latent: number, mask: string): Place {
  return { latent, mask, words: String(latent) };
}

/** A page that was just opened. */
async function open(first: State) {
  const [store, places] = [await import("./store"), await import("./places")];
  const started = store.start();
  await asked.shift()!.answer(first);
  await started;
  return { ...store, ...places };
}

beforeEach(() => {
  vi.resetModules();
  asked = [];
  vi.stubGlobal("location", { search: "?token=t" });
  vi.stubGlobal("document", { title: "" });
  vi.stubGlobal("sessionStorage", { getItem: () => null, setItem: () => undefined });
  vi.stubGlobal("EventSource", Events);
  vi.stubGlobal("fetch", fetched);
});

describe("answers that are late", () => {
  it("bring no older text back", async () => {
    const page = await open(stateAt(1, [edit(0)]));
    page.search();
    page.changeEdit(0, () => ({ rank: 2 }));
    await settle();
    // The change waits until the search was answered.
    expect(asked.map(({ path }) => path)).toEqual(["edits/0/search"]);
    await asked[0]!.answer(stateAt(1, [edit(0)]));
    await asked[1]!.answer(stateAt(2, [edit(0, { rank: 2 })]));
    expect(page.state.value.revision).toBe(2);
    page.cancel();
    page.changeEdit(0, () => ({ rank: 3 }));
    await settle();
    const [cancelled, changed] = asked.slice(2);
    expect([cancelled!.path, changed!.path]).toEqual(["cancel", "edits/0"]);
    await changed!.answer(stateAt(3, [edit(0, { rank: 3 })]));
    await cancelled!.answer(stateAt(2, [edit(0, { rank: 2 })]));
    expect(page.state.value.revision).toBe(3);
  });

  it("leave later requests a way, whatever went wrong with them", async () => {
    const page = await open(stateAt(1, [edit(0)]));
    page.changeEdit(0, () => ({ rank: 2 }));
    page.changeEdit(0, () => ({ layer: "layer8" }));
    await settle();
    await asked[0]!.lose();
    expect(page.news.value?.message).toBe("The studio does not answer.");
    await asked[1]!.answer(stateAt(2, [edit(0, { layer: "layer8" })]));
    expect(page.state.value.edits[0]!.layer).toBe("layer8");
  });

  it("are asked for again when the page listens, as work may have ended before", async () => {
    const page = await open(stateAt(1, [edit(0)], { job: { kind: "execute" } as State["job"] }));
    expect(asked).toEqual([]);
    connect();
    await settle();
    expect(asked.map(({ method, path }) => [method, path])).toEqual([["GET", "spec"]]);
    await asked[0]!.answer(stateAt(1, [edit(0)]));
    expect(page.state.value.job).toBeNull();
    // Of its own revision, it need not be told.
    hear({ event: "changed", revision: 1 });
    await settle();
    expect(asked.length).toBe(1);
  });
});

describe("texts that are typed", () => {
  it("are sent on the revision of the text before", async () => {
    const page = await open(stateAt(1, []));
    const typed = { revision: 1 };
    const sent = [page.write("a", typed), page.write("ab", typed)];
    await settle();
    await asked[0]!.answer(stateAt(2, []));
    expect(asked[1]!.body).toEqual({ revision: 2, text: "ab" });
    await asked[1]!.answer(stateAt(3, []));
    expect(await Promise.all(sent)).toEqual([true, true]);
  });

  it("do not undo what was in their way", async () => {
    const page = await open(stateAt(1, []));
    const typed = { revision: 1 };
    void page.write("a", typed);
    const second = page.write("ab", typed);
    await settle();
    await asked[0]!.refuse(409);
    await asked[1]!.answer(stateAt(7, []));
    expect(asked[2]!.body["revision"]).toBe(1);
    await asked[2]!.lose();
    // Nobody has answered: the text stays where it was typed.
    expect(await second).toBe(false);
  });
});

describe("a file that another program has changed", () => {
  it("is known by the code of the refusal, whatever its words are", async () => {
    const page = await open(stateAt(1, [edit(0)]));
    page.save();
    await settle();
    await asked[0]!.refuse(409, "E607 changed-outside", "anything");
    await asked[1]!.answer(stateAt(1, [edit(0)]));
    expect(page.isChangedOutside.value).toBe(true);
    page.save();
    await settle();
    await asked[2]!.refuse(409, "E608 changed-elsewhere", "It was changed outside of the studio.");
    await asked[3]!.answer(stateAt(1, [edit(0)]));
    expect(page.isChangedOutside.value).toBe(false);
  });
});

describe("an edit of another spec", () => {
  it("cannot be changed here, and others can", async () => {
    const there = { source: place(1, "a"), target: place(2, "b") };
    const page = await open(stateAt(1, [edit(0, { ...there, used: "libs/towers.yaml#paste" }), edit(1, there)]));
    page.enter("paste");
    page.select(0);
    expect([page.canEdit.value, page.isPasting.value, page.isFresh.value]).toEqual([false, false, false]);
    // The image is looked at, and nothing is pasted into it.
    page.chooseImage(9);
    await settle();
    expect([page.latent.value, asked.length]).toEqual([9, 0]);
    page.select(1);
    expect([page.canEdit.value, page.isPasting.value]).toEqual([true, true]);
    page.chooseImage(9);
    await settle();
    expect(asked.map(({ path }) => path)).toEqual(["edits/1/paste"]);
  });
});

describe("gestures that come before the answers to others", () => {
  it("change the edit that they were made on, whatever its number is by then", async () => {
    const page = await open(stateAt(1, [edit(0), edit(1)]));
    page.changeEdit(1, (_, at) => ({ position: at - 1 }));
    page.changeEdit(1, (now) => ({ rank: Number(now.rank) + 1 }));
    page.changeEdit(1, (now) => ({ rank: Number(now.rank) + 1 }));
    page.removeEdit(0);
    await settle();
    await asked[0]!.answer(stateAt(2, [edit(1), edit(0)]));
    await asked[1]!.answer(stateAt(3, [edit(1, { rank: 2 }), edit(0)]));
    await asked[2]!.answer(stateAt(4, [edit(1, { rank: 3 }), edit(0)]));
    expect(asked.map(({ path, body }) => [path, body["rank"] ?? body["position"]])).toEqual([
      ["edits/1", 0], ["edits/0", 2], ["edits/0", 3], ["edits/1?revision=4", undefined],
    ]);
    await asked[3]!.answer(stateAt(5, [edit(1)]));
    // Nothing is asked of an edit that is gone.
    page.changeEdit(0, () => ({ rank: 9 }));
    await settle();
    expect(asked.length).toBe(4);
  });

  it("execute what the text before them can be executed with", async () => {
    const problems = [{ line: 1 }] as State["problems"];
    const page = await open(stateAt(1, [edit(0)], { problems }));
    void page.write("better", { revision: 1 });
    page.execute();
    await settle();
    await asked[0]!.answer(stateAt(2, [edit(0)]));
    expect(asked[1]!.path).toBe("execute");
  });

  it("know which mask was painted where, though another edit is in sight by then", async () => {
    const [first, second] = [place(1, "first"), place(2, "second")];
    const page = await open(stateAt(1, [edit(0, { source: first }), edit(1, { source: second })]));
    const written: (string | undefined)[] = [];
    page.putMask("data:", (found) => written.push(found?.mask));
    page.select(1);
    await settle();
    await asked[0]!.answer(stateAt(2, [edit(0, { source: place(1, "painted") }), edit(1, { source: second })]));
    expect(written).toEqual(["painted"]);
  });

  it("paint one region in several strokes, and remove the place that was pressed", async () => {
    const page = await open(stateAt(1, [edit(0, { context: [place(5, "a"), place(6, "b"), place(7, "c")] })]));
    page.enter("context");
    page.chooseImage(9);
    page.putMask("data:1", () => undefined);
    page.putMask("data:2", () => undefined);
    page.removeContext(0);
    page.removeContext(0);
    page.removeContext(1);
    await settle();
    await asked[0]!.answer(stateAt(2, [edit(0, { context: [place(5, "a"), place(6, "b"), place(7, "c"), place(9, "d")] })]));
    await asked[1]!.answer(stateAt(3, [edit(0, { context: [place(5, "a"), place(6, "b"), place(7, "c"), place(9, "e")] })]));
    await asked[2]!.answer(stateAt(4, [edit(0, { context: [place(6, "b"), place(7, "c"), place(9, "e")] })]));
    await asked[3]!.answer(stateAt(5, [edit(0, { context: [place(7, "c"), place(9, "e")] })]));
    expect(asked.map(({ path, body }) => [path.split("?")[0], body["index"] ?? path.match(/index=(\d)/)?.[1]])).toEqual([
      ["edits/0/places/context", undefined], ["edits/0/places/context", 3],
      ["edits/0/places/context", "0"], ["edits/0/places/context", "0"],
    ]);
  });

  it("remove one region of an image by a double click", async () => {
    const page = await open(stateAt(1, [edit(0, { context: [place(5, "a"), place(5, "b")] })]));
    page.removeContext(0);
    page.removeContext(0);
    await settle();
    await asked[0]!.answer(stateAt(2, [edit(0, { context: [place(5, "b")] })]));
    expect(asked.length).toBe(1);
  });
});
