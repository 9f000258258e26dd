// The spec's text beside its line numbers, with the compiler's errors at their lines.

import type { Problem } from "./api";
import { h, redraw } from "./dom";

const PAUSE = 350;

export class Editor {
  readonly element = h("section", { class: "editor", "aria-label": "Spec" });
  private readonly area = h("textarea", {
    class: "editor-text", "aria-label": "Text of the spec", spellcheck: "false", wrap: "off", autocomplete: "off",
    autocapitalize: "off",
  });
  private readonly colours = h("pre", { class: "editor-colours", "aria-hidden": "true" });
  private readonly numbers = h("div", { class: "editor-numbers", "aria-hidden": "true" });
  private readonly list = h("ul", { class: "problems", "aria-label": "Problems", role: "list" });
  private readonly count = h("span", { class: "count", role: "status" });
  private problems: Problem[] = [];
  private timer = 0;
  private sending = 0;
  private base = 0;

  /** `changed` sends a text, on the revision that it was typed on when it is sent, and gives the one that it became. */
  constructor(private readonly changed: (text: string, base: () => number) => Promise<number>) {
    const title = h("header", { class: "panel-title" }, h("h2", {}, "Spec"), this.count);
    this.element.append(
      title,
      h("div", { class: "editor-body" }, this.numbers, h("div", { class: "editor-page" }, this.colours, this.area)),
      this.list,
    );
    this.area.addEventListener("input", () => {
      this.paint();
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => this.send(), PAUSE);
    });
    this.area.addEventListener("blur", () => this.timer && this.send());
    this.area.addEventListener("scroll", () => this.follow());
  }

  /** Whether there is text that was typed and not sent yet. */
  get isPending(): boolean {
    return this.timer !== 0 || this.sending > 0;
  }

  show(text: string, problems: Problem[], revision: number): void {
    if (!this.isPending) this.base = revision;
    if (!this.isPending && this.area.value !== text) {
      const { selectionStart, selectionEnd, scrollTop } = this.area;
      this.area.value = text;
      this.area.setSelectionRange(selectionStart, selectionEnd);
      this.area.scrollTop = scrollTop;
    }
    this.problems = problems;
    this.area.setAttribute("aria-invalid", String(problems.length > 0));
    this.count.textContent = problems.length ? `${problems.length} ${problems.length > 1 ? "problems" : "problem"}` : "no problems";
    this.count.classList.toggle("bad", problems.length > 0);
    redraw(this.list, ...problems.map((problem, index) => this.entry(problem, index)));
    this.list.hidden = problems.length === 0;
    this.paint();
  }

  goTo(line: number): void {
    const lines = this.area.value.split("\n");
    const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    this.area.focus();
    this.area.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
    this.area.scrollTop = Math.max(0, (line - 3) * 18);
  }

  private entry(problem: Problem, index: number): HTMLElement {
    const where = problem.line ? `line ${problem.line}` : "spec";
    return h(
      "li", {},
      h(
        "button",
        { type: "button", class: "problem", "data-key": `problem-${index}`, onclick: () => this.goTo(problem.line || 1) },
        h("span", { class: "problem-place" }, where),
        h("span", {}, problem.path && !problem.message.includes(problem.path) ? `${problem.path}: ` : "", problem.message),
        problem.hint && h("span", { class: "problem-hint" }, problem.hint),
      ),
    );
  }

  private send(): void {
    clearTimeout(this.timer);
    this.timer = 0;
    this.sending += 1;
    void this.changed(this.area.value, () => this.base).then((revision) => {
      this.sending -= 1;
      this.base = revision;
    });
  }

  private paint(): void {
    const lines = this.area.value.split("\n");
    const bad = new Set(this.problems.map((problem) => problem.line));
    this.numbers.replaceChildren(
      ...lines.map((_, index) => h("span", { class: bad.has(index + 1) ? "bad" : "" }, String(index + 1))),
    );
    this.colours.replaceChildren(
      ...lines.map((line, index) => h("span", { class: `line${bad.has(index + 1) ? " bad" : ""}` }, ...coloured(line), "\n")),
    );
    this.follow();
  }

  private follow(): void {
    this.numbers.scrollTop = this.area.scrollTop;
    this.colours.scrollTop = this.area.scrollTop;
    this.colours.scrollLeft = this.area.scrollLeft;
  }
}

/** A line of YAML in the colours of its parts. */
function coloured(line: string): (HTMLElement | string)[] {
  const parts = /(#.*$)|([A-Za-z_][\w-]*)(?=\s*:)|("(?:[^"\\]|\\.)*"|'[^']*')|(?<![\w.-])(-?\d[\d.e+-]*)(?![\w.-])/g;
  const kinds = ["comment", "key", "string", "number"];
  const found: (HTMLElement | string)[] = [];
  let end = 0;
  for (const match of line.matchAll(parts)) {
    found.push(line.slice(end, match.index));
    const kind = kinds[match.slice(1).findIndex((part) => part !== undefined)]!;
    found.push(h("span", { class: `yaml-${kind}` }, match[0]));
    end = match.index + match[0].length;
  }
  return [...found, line.slice(end)];
}
