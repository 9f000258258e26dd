import { describe, expect, it } from "vitest";
import { changesOf } from "../forms/changes";
import { anotherFact, factsOf, fieldsOf, nextOf, partsOf, turned, verdictOf } from "./facts";

const ONE = { target: { prompt: "{} lives in", subject: "Dana" }, source: { text: "Lumen", was: "Belmar" } };

describe("facts of a spec", () => {
  it("are read from source and target, flat rows and pairs, and written as they were", () => {
    for (const given of [
      ONE,
      { target: ONE.target, source: { prompt: "{} lives in", subject: "Gala" } },
      { target: ONE.target, source: { mean: { subjects: ["Ann", "Bob"] } } },
      { target: ONE.target, source: { erase: { text: "Belmar", subjects: ["Olga"] } } },
      { pairs: [{ prompt: "{} lives in", subject: "Dana", text: "Lumen", id: "1", paraphrases: ["{} is in"], neighbours: ["Rosa"] }] },
      { pairs: [{ target: ONE.target, source: { mean: { subjects: ["Ann"] } }, id: "2" }, { prompt: "a {}", subject: "b", text: "c" }] },
    ]) expect(changesOf(given, fieldsOf(given, factsOf(given)))).toEqual({});
  });

  it("become pairs where there are several, or where more is said of one", () => {
    const [fact] = factsOf(ONE);
    const written = fieldsOf(ONE, [fact!, { ...anotherFact([fact!]), subject: "Rosa" }]);
    expect(written).toEqual({
      target: null, source: null,
      pairs: [{ prompt: "{} lives in", subject: "Dana", text: "Lumen", was: "Belmar" }, { prompt: "{} lives in", subject: "Rosa" }],
    });
    expect(fieldsOf(ONE, [{ ...fact!, neighbours: ["Rosa"] }])["pairs"]).toHaveLength(1);
  });

  it("leave out what is empty, so that an unfinished fact is no wrong one", () => {
    const [fact] = factsOf({});
    expect(fieldsOf({}, [{ ...fact!, prompt: "{} lives in" }])).toEqual({ target: { prompt: "{} lives in" }, source: null });
    expect(changesOf({}, fieldsOf({}, factsOf({})))).toEqual({});
    expect(changesOf(ONE, { target: ONE.target, source: null })).toEqual({ source: null });
  });

  it("turn from one kind into another", () => {
    const [fact] = factsOf(ONE);
    expect(fieldsOf(ONE, [turned(fact!, "erase")])["source"]).toEqual({ erase: { text: "Belmar" } });
    expect(fieldsOf(ONE, [turned(fact!, "copy")])["source"]).toEqual({ prompt: "{} lives in" });
    expect(fieldsOf(ONE, [turned(fact!, "mean")])["source"]).toEqual({ mean: {} });
  });

  it("of a file are not those of a form", () => expect(factsOf({ pairs: { file: "facts.csv" } })).toEqual([]));

  it("say what is still missing", () => {
    expect(nextOf({})).toContain("prompt");
    expect(nextOf({ target: { prompt: "{} lives in" } })).toContain("subject");
    expect(nextOf({ target: ONE.target })).toContain("go on with");
    expect(nextOf(ONE)).toBeNull();
  });
});

describe("answers", () => {
  const sample = { role: "own", words: "", wanted: "New York", before: [" Belmar. The"], after: [" New York. The"] };

  it("hold where they begin with the whole text that is wanted", () => {
    expect(verdictOf(sample)).toBe("holds");
    expect(verdictOf({ ...sample, after: [" New Yorkshire"] })).toBe("fails");
    expect(verdictOf({ ...sample, after: [null] })).toBe("");
    expect(verdictOf({ ...sample, after: [] })).toBe("");
    expect(verdictOf({ ...sample, wanted: "" })).toBe("");
  });

  it("of neighbours are kept where they begin with the same word", () => {
    const neighbour = { ...sample, role: "neighbour", wanted: "" };
    expect(verdictOf({ ...neighbour, after: [" Belmar, of course"] })).toBe("kept");
    expect(verdictOf(neighbour)).toBe("changed");
    expect(verdictOf({ ...neighbour, before: [null] })).toBe("");
  });

  it("are shown with the part that counts", () => {
    expect(partsOf(" New York. The", "New York")).toEqual(["New York", ". The"]);
    expect(partsOf(" Belmar. The", "New York")).toEqual(["Belmar", ". The"]);
  });
});
