import { describe, expect, it } from "vitest";
import { changesOf } from "../forms/changes";
import { anotherConcept, conceptsOf, fieldsOf, nextOf, turned } from "./concepts";

const REPLACED = { source: { prompt: "art" }, target: { prompt: "van gogh", tokens: "content" } };

describe("concepts of a spec", () => {
  it("are read and written as they were", () => {
    for (const given of [
      REPLACED,
      { source: { prompt: "" }, target: { prompt: "a watermark" } },
      { source: { prompt: "doctor", add: [{ prompt: "female", by: 0.1 }, { prompt: "male", by: -0.1 }] }, target: { prompt: "doctor" } },
      { pairs: [REPLACED, { source: { prompt: "" }, target: { prompt: "monet" }, weight: 2 }] },
    ]) expect(changesOf(given, fieldsOf(given, conceptsOf(given)))).toEqual({});
  });

  it("turn from one kind into another", () => {
    const [concept] = conceptsOf(REPLACED);
    expect(fieldsOf({}, [turned(concept!, "erase")])).toEqual({ source: { prompt: "" }, target: REPLACED.target });
    const shifted = turned({ ...concept!, source: "" }, "shift");
    expect(fieldsOf({}, [shifted])["source"]).toEqual({ prompt: "van gogh", add: [{ by: 0.3 }] });
    expect(fieldsOf({}, [turned(shifted, "replace")])["source"]).toBeNull();
  });

  it("become pairs where there are several", () => {
    const concepts = conceptsOf(REPLACED);
    const written = fieldsOf(REPLACED, [...concepts, { ...anotherConcept(concepts), target: "monet" }]);
    expect(written["source"]).toBeNull();
    expect(written["pairs"]).toEqual([REPLACED, { source: { prompt: "art" }, target: { prompt: "monet", tokens: "content" } }]);
  });

  it("of a file are not those of a form", () => expect(conceptsOf({ pairs: { file: "pairs.csv" } })).toEqual([]));

  it("say what is still missing", () => {
    expect(nextOf({})).toContain("concept");
    expect(nextOf({ target: { prompt: "van gogh" } })).toContain("answered like");
    expect(nextOf({ source: { prompt: "" }, target: { prompt: "van gogh" } })).toBeNull();
    expect(nextOf(REPLACED)).toBeNull();
  });
});
