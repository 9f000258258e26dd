// The page: what the server says (the state of the spec) and what is only here (mode, images in sight), drawn.

import "./studio.css";
import { address, call, imageAddress, listen, picture, Refused, type Edit, type Failure, type Place, type Role, type State } from "./api";
import { boundsOf, maskOf, PixelCanvas, type Tool } from "./canvas";
import { h, icon, iconButton, redraw } from "./dom";
import { Editor } from "./editor";
import { Gallery } from "./gallery";
import { drawEdits, drawOutcome, drawRule, isYielding } from "./panels";

type Mode = "copy" | "paste" | "context";

const ROLES: Record<Mode, Role> = { copy: "source", paste: "target", context: "context" };
const COLOURS: Record<Mode, string> = { copy: "#2f7df6", paste: "#e0751a", context: "#1f9d55" };
const MODES: Mode[] = ["copy", "paste", "context"];
const TOOLS: { tool: Tool; words: string; key: string }[] = [
  { tool: "brush", words: "Brush", key: "b" },
  { tool: "eraser", words: "Eraser", key: "e" },
  { tool: "box", words: "Box", key: "r" },
  { tool: "ellipse", words: "Ellipse", key: "o" },
  { tool: "polygon", words: "Polygon", key: "p" },
  { tool: "move", words: "Move what is pasted", key: "m" },
  { tool: "hand", words: "Pan", key: "h" },
];

class Studio {
  private state!: State;
  private canvas!: PixelCanvas;
  private mode: Mode = "copy";
  private selected = 0;
  private latent: Record<Mode, number | null> = { copy: null, paste: null, context: null };
  private entry: number | null = null;
  private stream: "gallery" | "fresh" = "gallery";
  private view: "before" | "after" | "both" = "both";
  private heat = false;
  private shown = "";
  private paintedKey = "";
  private floatKey = "";
  private pending = 0;
  private queue: Promise<unknown> = Promise.resolve();
  private wanted: { right: number; down: number } | null = null;
  private dragging = false;
  private compositeNow = 0;
  private drawing = 0;
  private pressed = false;
  private owed = false;

  private readonly editor = new Editor((text, base) => this.write(text, base));
  private readonly gallery = new Gallery(
    { addresses: (latent) => this.addresses(latent), marks: (latent) => this.marks(latent) },
    (latent) => this.choose(latent),
  );
  private readonly head = h("header", { class: "head" });
  private readonly edits = h("section", { class: "panel", "aria-label": "Edits" });
  private readonly rule = h("section", { class: "panel", "aria-label": "Rule" });
  private readonly outcome = h("section", { class: "panel outcome", "aria-label": "Result" });
  private readonly modes = h("div", { class: "modes", role: "tablist", "aria-label": "Steps" });
  private readonly hint = h("p", { class: "hint stage-hint", id: "stage-hint" });
  private readonly tools = h("div", { class: "tools", role: "toolbar", "aria-label": "Tools", "aria-orientation": "vertical" });
  private readonly strip = h("div", { class: "strip" });
  private readonly galleryHead = h("header", { class: "panel-title gallery-head" });
  private readonly note = h("span", { class: "note", role: "status" });
  private noteTimer = 0;
  private readonly news = h("div", { class: "news", role: "alert" });
  private readonly voice = h("div", { class: "unseen", role: "status", "aria-live": "polite" });

  async start(root: Element): Promise<void> {
    this.state = await call("GET", "spec");
    this.canvas = new PixelCanvas(this.state.model.image_size, {
      painted: () => this.painted(),
      moved: (right, down, held) => this.moved(right, down, held),
      said: (words) => (this.voice.textContent = words),
    });
    this.canvas.element.className = "canvas";
    this.watchPresses();
    this.canvas.element.setAttribute("aria-describedby", "stage-hint");
    root.append(
      this.head,
      h(
        "main", { class: "main" },
        h("div", { class: "side" }, this.edits, this.rule, this.outcome),
        h(
          "section", { class: "stage", "aria-label": "Canvas" },
          this.modes,
          h(
            "div", { id: "stage-panel", role: "tabpanel", "aria-labelledby": "mode-copy", class: "stage-panel" },
            this.hint,
            h("div", { class: "bench" }, this.tools, this.canvas.element),
            this.strip,
          ),
        ),
        h(
          "div", { class: "right" },
          h("section", { class: "panel gallery-panel", "aria-label": "Gallery" }, this.galleryHead, this.gallery.element),
          this.editor.element,
        ),
      ),
      this.news,
      this.voice,
    );
    document.addEventListener("keydown", (event) => this.key(event));
    const resume = JSON.parse(sessionStorage.getItem("studio") ?? "{}") as { mode?: Mode; selected?: number };
    this.mode = resume.mode ?? "copy";
    this.select(Math.min(resume.selected ?? 0, Math.max(0, this.state.edits.length - 1)));
    listen(
      (event) => {
        if (event.event === "changed") {
          if (event.revision !== this.state.revision) void this.refresh();
        } else if (event.event === "ended") {
          if (event.failure && event.failure.message !== "Cancelled.") this.tell(event.failure);
          void this.refresh();
        } else if (event.event !== "stopping") {
          this.state.job = { kind: event.kind, what: event.what, done: event.done, total: event.total };
          drawOutcome(this.outcome, this.state, this.selected, this.acts);
        }
      },
      (lost) => document.body.classList.toggle("lost", lost),
    );
    void this.refresh();
  }

  private readonly acts = {
    select: (number: number) => this.select(number),
    add: () => {
      const number = this.state.edits.length;
      this.send("POST", "edits", {}, () => this.select(number));
    },
    change: (number: number, fields: Record<string, unknown>) => {
      const position = fields["position"];
      this.send("PATCH", `edits/${number}`, fields, () => {
        if (typeof position === "number") this.select(position);
      });
    },
    remove: (number: number) =>
      this.send("DELETE", `edits/${number}`, null, () => this.select(Math.max(0, number - 1))),
    execute: () => this.send("POST", "execute", {}),
    cancel: () => void this.ask(() => call("POST", "cancel")),
    traces: (result: number) => void this.ask(() => call("POST", `results/${result}/traces`)),
    curve: (result: number) => void this.ask(() => call("POST", `results/${result}/curve`)),
  };

  // -- talking to the server ------------------------------------------------------------------------------------------

  /** Send a change, after those before it, on the revision that they gave. */
  private send(method: string, path: string, fields: Record<string, unknown> | null, then?: () => void): void {
    this.pending += 1;
    this.queue = this.queue.then(() => this.ask(() => {
      const revision = this.state.revision;
      if (fields === null) return call(method, `${path}${path.includes("?") ? "&" : "?"}revision=${revision}`);
      return call(method, path, { revision, ...fields });
    }, then)).finally(() => (this.pending -= 1));
  }

  private async write(text: string, base: () => number): Promise<number> {
    this.queue = this.queue.then(() => this.ask(() => call("PUT", "spec", { revision: base(), text })));
    await this.queue;
    return this.state.revision;
  }

  private refresh(): Promise<unknown> {
    this.queue = this.queue.then(() => this.ask(() => call("GET", "spec")));
    return this.queue;
  }

  private async ask(request: () => Promise<State>, then?: () => void): Promise<void> {
    try {
      this.state = await request();
      then?.();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.tell(error.failure);
      if (error.status === 409) {
        this.shown = this.paintedKey = "";
        this.state = await call("GET", "spec").catch(() => this.state);
      }
    }
    this.draw();
  }

  private tell(failure: Failure): void {
    const overwrite = failure.message.includes("outside of the studio");
    redraw(
      this.news,
      h("div", {}, h("strong", {}, failure.message), failure.hint && !overwrite && h("span", {}, failure.hint)),
      overwrite && h("button", {
        type: "button", onclick: () => {
          redraw(this.news);
          this.send("POST", "save", { overwrite: true });
        },
      }, "Save over it"),
      iconButton("remove", "Close this message", { onclick: () => redraw(this.news) }),
    );
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  /** Draw nothing anew while a button of a panel is pressed: it would be gone before its click. */
  private watchPresses(): void {
    addEventListener("pointerdown", (event) => (this.pressed = event.target !== this.canvas.element), true);
    // The click comes behind this event.
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => setTimeout(() => this.release()), true);
    // What ends outside of the window, or in the list of a select, ends unseen.
    addEventListener("pointermove", (event) => event.buttons === 0 && this.release(), true);
  }

  private release(): void {
    this.pressed = false;
    if (this.owed) this.draw();
  }

  private draw(): void {
    this.owed = this.pressed;
    if (this.pressed) return;
    this.selected = Math.min(this.selected, Math.max(0, this.state.edits.length - 1));
    sessionStorage.setItem("studio", JSON.stringify({ mode: this.mode, selected: this.selected }));
    this.drawHead();
    drawEdits(this.edits, this.state, this.selected, this.acts);
    drawRule(this.rule, this.state, this.selected, this.acts);
    drawOutcome(this.outcome, this.state, this.selected, this.acts);
    this.drawModes();
    this.drawTools();
    this.drawStrip();
    this.drawGalleryHead();
    const marks = JSON.stringify([this.state.edits[this.selected], this.state.model, this.state.results?.after, this.stream, this.view]);
    if (marks !== this.galleryMarks) {
      this.galleryMarks = marks;
      this.gallery.refresh();
    }
    this.editor.show(this.state.text, [...this.state.problems, ...this.late()], this.state.revision);
    void this.drawCanvas();
  }

  private galleryMarks = "";

  /** Problems that only Execute could find, as long as the text is the one that was executed. */
  private late(): State["problems"] {
    return this.state.failure?.problems ?? [];
  }

  private drawHead(): void {
    const { file, saved, changed_outside, model, can_undo, can_redo } = this.state;
    document.title = `${saved ? "" : "• "}${file} – editspec studio`;
    redraw(
      this.head,
      h("h1", {}, "editspec ", h("span", {}, "studio")),
      h("span", { class: "file", title: saved ? "Saved" : "Kept as a draft; not saved yet" }, file, h(
        "span", { class: `file-state ${saved ? "is-saved" : "is-draft"}` },
        changed_outside ? "changed outside" : saved ? "saved" : "draft",
      )),
      h("span", { class: "model", title: `weights ${model.digest}` }, model.weights),
      h("span", { class: "lost-words", role: "status" }, "Not connected: open the address that editspec studio prints"),
      h("span", { class: "spring" }),
      this.note,
      iconButton("undo", "Undo (Ctrl+Z)", { "data-key": "undo", disabled: !can_undo, onclick: () => this.send("POST", "undo", {}) }),
      iconButton("redo", "Redo (Ctrl+Shift+Z)", { "data-key": "redo", disabled: !can_redo, onclick: () => this.send("POST", "redo", {}) }),
      h("button", {
        type: "button", "data-key": "save", title: "Write the spec and its masks (Ctrl+S)", onclick: () => this.save(),
      }, "Save"),
      h("button", {
        type: "button", "data-key": "export", title: "Save, and write the patches to build/", disabled: this.state.problems.length > 0,
        onclick: () => this.send("POST", "export", {}, () => this.say("Patches go to the folder build.")),
      }, "Export"),
    );
  }

  private drawModes(): void {
    const edit = this.state.edits[this.selected];
    const done: Record<Mode, boolean> = {
      copy: Boolean(edit?.source || edit?.note), paste: Boolean(edit?.target), context: Boolean(edit?.context.length),
    };
    redraw(
      this.modes,
      ...MODES.map((mode, index) => h(
        "button",
        {
          type: "button", role: "tab", id: `mode-${mode}`, "aria-selected": String(mode === this.mode),
          "aria-controls": "stage-panel", tabindex: mode === this.mode ? 0 : -1, "data-key": `mode-${mode}`,
          class: `mode mode-${mode}`, title: `${title(mode)} (${index + 1})`,
          onclick: () => this.enter(mode),
          onkeydown: (event: KeyboardEvent) => {
            const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
            if (step) {
              this.enter(MODES[(index + step + 3) % 3]!);
              this.modes.querySelector<HTMLElement>("[aria-selected=true]")?.focus();
            }
          },
        },
        h("span", { class: "mode-number" }, done[mode] ? icon("check") : String(index + 1)),
        title(mode),
        mode === "context" && edit?.context.length ? h("span", { class: "count" }, String(edit.context.length)) : null,
      )),
    );
    document.getElementById("stage-panel")?.setAttribute("aria-labelledby", `mode-${this.mode}`);
    this.hint.textContent = this.hintWords();
  }

  private hintWords(): string {
    const edit = this.state.edits[this.selected];
    if (!edit) return "Add an edit to begin.";
    if (edit.note && this.mode !== "context") return `This edit has ${edit.note}: it is written in the spec.`;
    const latent = this.latent[this.mode];
    if (latent === null) {
      if (this.mode === "copy") return "Choose an image in the gallery, then paint what is to be copied.";
      if (this.mode === "paste") return edit.source ? "Choose the image to paste into." : "Copy something first.";
      return "Point at more places where the rule should hold: choose an image, and paint the place.";
    }
    const image = `Image ${latent}. `;
    if (this.mode === "copy") return `${image}Paint what is to be copied.`;
    if (this.mode === "paste") return `${image}Drag what is pasted to its place; the model draws the result.`;
    return `${image}Paint where the rule should hold.`;
  }

  private drawTools(): void {
    const usable = TOOLS.filter(({ tool }) => tool !== "move" || this.mode === "paste");
    if (!usable.some(({ tool }) => tool === this.canvas.tool)) this.canvas.tool = "brush";
    this.canvas.element.dataset["tool"] = this.canvas.tool;
    redraw(
      this.tools,
      ...usable.map(({ tool, words, key }) => iconButton(tool, `${words} (${key.toUpperCase()})`, {
        "data-key": `tool-${tool}`, "aria-pressed": String(tool === this.canvas.tool), onclick: () => this.take(tool),
      })),
      h("hr", {}),
      h(
        "label", { class: "size", title: "Size of the brush ([ and ])" },
        h("span", { class: "unseen" }, "Size of the brush"),
        h("input", {
          type: "range", min: 0.5, max: Math.max(8, this.state.model.image_size / 8), step: 0.5, ".value": String(this.canvas.radius),
          "data-key": "size",
          oninput: (event: Event) => (this.canvas.radius = Number((event.target as HTMLInputElement).value)),
        }),
      ),
      h("hr", {}),
      iconButton("plus", "Zoom in (+)", { "data-key": "in", onclick: () => this.canvas.zoom(1.25) }),
      iconButton("minus", "Zoom out (-)", { "data-key": "out", onclick: () => this.canvas.zoom(0.8) }),
      iconButton("fit", "Show the whole image (0)", { "data-key": "fit", onclick: () => this.canvas.fitWhole() }),
      h("hr", {}),
      iconButton("remove", "Clear the mask", { "data-key": "clear", disabled: !this.place(), onclick: () => this.clear() }),
    );
  }

  private drawStrip(): void {
    const edit = this.state.edits[this.selected];
    const { model } = this.state;
    if (this.mode !== "context" || !edit) {
      redraw(this.strip);
      return;
    }
    const found = this.state.found[edit.name] ?? [];
    const taken = new Set(edit.context.map((place) => place.latent));
    const fresh = found.filter((match) => !taken.has(match.latent));
    const busy = this.state.job !== null && !isYielding(this.state.job);
    redraw(
      this.strip,
      h(
        "div", { class: "strip-head" },
        h("button", {
          type: "button", class: "text-button", "data-key": "search", disabled: busy || (!edit.context.length && !edit.target),
          onclick: () => void this.ask(() => call("POST", `edits/${this.selected}/search`)),
        }, icon("search"), "Search similar places"),
        h("button", {
          type: "button", class: "text-button", "data-key": "heat", "aria-pressed": String(this.heat),
          disabled: !edit.context.length && !edit.target,
          onclick: () => {
            this.heat = !this.heat;
            this.shown = "";
            this.draw();
          },
        }, icon("heat"), "Heat map of the key"),
      ),
      h(
        "div", { class: "thumbs", role: "group", "aria-label": "Context", tabindex: 0 },
        ...edit.context.map((place, index) => h(
          "span", { class: "thumb" },
          h(
            "button", {
              type: "button", class: "thumb-image", "data-key": `context-${index}`,
              "aria-pressed": String(index === this.entry), "aria-label": `Context ${place.words}`,
              onclick: () => this.open(index),
            },
            h("img", {
              src: place.latent !== null ? imageAddress(model.name, model.seed, place.latent) : address(`edits/${this.selected}/scenes/context?index=${index}`),
              alt: "", width: 64, height: 64,
            }),
            h("img", {
              src: address(`edits/${this.selected}/masks/context?index=${index}&mask=${place.mask}`), alt: "", width: 64, height: 64,
              class: "thumb-mask",
            }),
          ),
          iconButton("remove", `Remove context ${place.words}`, {
            "data-key": `drop-${index}`, class: "icon-button thumb-remove",
            onclick: () => this.send("DELETE", `edits/${this.selected}/places/context?index=${index}`, null, () => this.open(null)),
          }),
        )),
        !edit.context.length && !fresh.length && h(
          "span", { class: "strip-words" }, edit.target ? "Without context, the rule holds where it was pasted." : "",
        ),
      ),
      fresh.length > 0 && h(
        "div", { class: "thumbs", role: "group", "aria-label": "Similar places", tabindex: 0 },
        ...fresh.map((match) => h(
          "span", { class: "thumb" },
          h(
            "button", {
              type: "button", class: "thumb-image", "data-key": `found-${match.latent}`,
              "aria-label": `Add image ${match.latent} to the context`, title: `Image ${match.latent}: add it to the context`,
              onclick: () => this.send("PUT", `edits/${this.selected}/places/context`, { latent: match.latent, mask: { box: match.box } }),
            },
            h("img", { src: imageAddress(model.name, model.seed, match.latent), alt: "", width: 64, height: 64 }),
            frame(match.box, model.image_size),
            h("span", { class: "thumb-add" }, icon("plus")),
          ),
        )),
      ),
    );
  }

  private drawGalleryHead(): void {
    const after = this.state.results !== null;
    const segment = (group: string, value: string, words: string, checked: boolean, choose: () => void) => h(
      "label", { class: "segment" },
      h("input", { type: "radio", name: group, ".checked": checked, "data-key": `${group}-${value}`, onchange: choose }),
      h("span", {}, words),
    );
    redraw(
      this.galleryHead,
      h(
        "div", { class: "segments", role: "radiogroup", "aria-label": "Which images" },
        segment("stream", "gallery", "Gallery", this.stream === "gallery", () => this.turn({ stream: "gallery" })),
        segment("stream", "fresh", "Fresh samples", this.stream === "fresh", () => this.turn({ stream: "fresh" })),
      ),
      after && h(
        "div", { class: "segments", role: "radiogroup", "aria-label": "Before or after the edits" },
        ...(["before", "both", "after"] as const).map((view) => segment(
          "view", view, view === "both" ? "Before | after" : title(view), this.view === view, () => this.turn({ view }),
        )),
      ),
      h("span", { class: "spring" }),
      h(
        "label", { class: "jump" }, "Go to",
        h("input", {
          type: "number", min: 0, class: "number", "aria-label": "Go to the image with this number", "data-key": "jump",
          onchange: (event: Event) => {
            const latent = Number((event.target as HTMLInputElement).value);
            if (Number.isSafeInteger(latent) && latent >= 0) this.gallery.focus(latent);
          },
        }),
      ),
    );
  }

  private turn(to: Partial<{ stream: "gallery" | "fresh"; view: "before" | "after" | "both" }>): void {
    Object.assign(this, to);
    this.draw();
  }

  // -- the canvas -----------------------------------------------------------------------------------------------------

  /** The place of the spec that is in sight, if the image in sight is its. */
  private place(): Place | null {
    const edit = this.state.edits[this.selected];
    if (!edit) return null;
    const place = this.mode === "context" ? edit.context[this.entry ?? -1] : edit[ROLES[this.mode] as "source" | "target"];
    return place && (place.latent === this.latent[this.mode] || place.latent === null) ? place : null;
  }

  private async drawCanvas(): Promise<void> {
    const drawing = ++this.drawing;
    const { model } = this.state;
    const edit = this.state.edits[this.selected];
    const place = this.place();
    const latent = this.latent[this.mode];
    const pasting = this.mode === "paste" && Boolean(edit?.source?.mask) && !edit?.note;
    this.canvas.colour = COLOURS[this.mode];
    this.canvas.element.setAttribute("aria-label", latent === null ? "No image yet" : `${title(this.mode)}, image ${latent}`);
    this.canvas.element.classList.toggle("empty", latent === null && !place);
    const role = ROLES[this.mode];
    const query = this.mode === "context" ? `?index=${this.entry ?? 0}` : "";
    const shown = JSON.stringify([
      this.mode, this.selected, latent, model.name, this.heat && this.mode === "context" && [this.state.revision],
      pasting && [edit?.source, place, edit?.layer, this.state.results?.after], place && latent === null ? place : 0,
    ]);
    if (shown !== this.shown && !this.dragging) {
      this.shown = shown;
      const image = latent !== null
        ? pasting && place
          ? picture("POST", `edits/${this.selected}/composite`)
          : picture("GET", `images/${model.name}/${model.seed}/${latent}`)
        : place ? picture("GET", `edits/${this.selected}/scenes/${role}${query}`) : null;
      const heat = this.heat && this.mode === "context" && latent !== null
        ? picture("GET", `edits/${this.selected}/heat/${latent}`) : null;
      try {
        const drawn = await image;
        if (this.shown === shown) this.canvas.show(drawn);
        const map = await heat;
        if (this.shown === shown) this.canvas.showHeat(map);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (pasting && latent !== null) {
          const plain = await picture("GET", `images/${model.name}/${model.seed}/${latent}`).catch(() => null);
          if (this.shown === shown) this.canvas.show(plain);
        }
        // What is wrong with the spec stands at its lines already.
        if (!error.failure.problems.length) this.tell(error.failure);
      }
    }
    // The image took its time, and the spec has changed since: this place is no longer what there is.
    if (drawing !== this.drawing) return;
    try {
      await this.drawMask(role, query, place, pasting);
      await this.drawFloating(edit, place, pasting);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      // The place went while its mask was on its way; what is there now is drawn next.
      this.paintedKey = this.floatKey = "";
    }
  }

  private async drawMask(role: Role, query: string, place: Place | null, pasting: boolean): Promise<void> {
    const key = JSON.stringify([this.mode, this.selected, this.latent[this.mode], place?.mask ?? "", pasting]);
    if (key === this.paintedKey || this.canvas.isHeld || this.pending > 0) return;
    this.paintedKey = key;
    const mask = place?.mask && !pasting ? await this.readMask(role, query, place.mask) : null;
    if (this.paintedKey !== key) return;
    if (this.canvas.isHeld || this.pending > 0) {
      // A stroke was begun while the mask was on its way: it stays, and what comes of it is drawn next.
      this.paintedKey = "";
      return;
    }
    this.canvas.showMask(mask);
    this.canvas.element.dataset["mask"] = place?.mask ?? "";
  }

  private async drawFloating(edit: Edit | undefined, place: Place | null, pasting: boolean): Promise<void> {
    const float = JSON.stringify([pasting && place, edit?.source, this.selected]);
    if (float === this.floatKey || this.dragging) return;
    this.floatKey = float;
    const source = pasting && place ? await this.readMask("source", "", edit!.source!.mask) : null;
    const target = source && place ? await this.readMask("target", "", place.mask) : null;
    if (this.floatKey !== float) return;
    const from = source && boundsOf(source, this.state.model.image_size);
    const to = target && boundsOf(target, this.state.model.image_size);
    this.wanted = from && to ? { right: to.left - from.left, down: to.top - from.top } : null;
    this.canvas.float(source, this.wanted?.right, this.wanted?.down);
  }

  private async readMask(role: Role, query: string, mask: string): Promise<Uint8Array> {
    const bitmap = await picture("GET", `edits/${this.selected}/masks/${role}${query || "?"}&mask=${mask}`);
    return maskOf(bitmap, this.state.model.image_size);
  }

  private painted(): void {
    const edit = this.state.edits[this.selected];
    const latent = this.latent[this.mode];
    if (!edit || latent === null) {
      this.canvas.showMask(null);
      return;
    }
    if (this.canvas.isEmpty) {
      this.clear();
      return;
    }
    const role = ROLES[this.mode];
    const index = this.mode === "context" ? (this.entry ?? edit.context.length) : null;
    if (this.mode === "context" && this.entry === null) this.entry = index;
    const mask = this.canvas.maskAddress();
    this.send("PUT", `edits/${this.selected}/places/${role}`, { latent, mask, ...(index === null ? {} : { index }) }, () => {
      // What was painted is what the spec has now: it need not be read back.
      const written = this.place()?.mask ?? "";
      this.paintedKey = JSON.stringify([this.mode, this.selected, latent, written, false]);
      this.canvas.element.dataset["mask"] = written;
    });
  }

  private clear(): void {
    if (!this.place()) return;
    const query = this.mode === "context" ? `?index=${this.entry ?? 0}` : "";
    if (this.mode === "context") this.entry = null;
    this.send("DELETE", `edits/${this.selected}/places/${ROLES[this.mode]}${query}`, null);
  }

  private moved(right: number, down: number, held: boolean): void {
    const latent = this.latent.paste;
    if (latent === null) return;
    this.wanted = { right, down };
    this.dragging = held;
    if (held) void this.compose();
    else this.send("POST", `edits/${this.selected}/paste`, { latent, right, down });
  }

  /** Have the model draw what is pasted where it is now; one request at a time, the newest place next. */
  private async compose(): Promise<void> {
    const number = ++this.compositeNow;
    if (number > 1) return;
    let drawn = 0;
    while (drawn !== this.compositeNow && this.wanted && this.latent.paste !== null) {
      drawn = this.compositeNow;
      const image = await picture("POST", `edits/${this.selected}/composite`, { latent: this.latent.paste, ...this.wanted })
        .catch(() => null);
      if (image && this.mode === "paste") this.canvas.show(image);
    }
    this.compositeNow = 0;
  }

  // -- gestures -------------------------------------------------------------------------------------------------------

  private select(number: number): void {
    this.selected = number;
    const edit = this.state.edits[number];
    this.latent = { copy: edit?.source?.latent ?? null, paste: edit?.target?.latent ?? null, context: edit?.context[0]?.latent ?? null };
    this.entry = edit?.context.length ? 0 : null;
    this.draw();
  }

  private enter(mode: Mode): void {
    this.mode = mode;
    const edit = this.state.edits[this.selected];
    this.canvas.tool = mode === "paste" && edit?.source ? "move" : this.canvas.tool === "move" ? "brush" : this.canvas.tool;
    if (mode === "context" && this.latent.context === null && edit?.target?.latent != null) this.latent.context = edit.target.latent;
    this.draw();
  }

  private choose(latent: number): void {
    if (this.stream === "fresh") {
      this.say("Fresh samples are only looked at: a spec names images of the gallery.");
      return;
    }
    const edit = this.state.edits[this.selected];
    if (!edit) return;
    this.latent[this.mode] = latent;
    if (this.mode === "context") {
      const entry = edit.context.findIndex((place) => place.latent === latent);
      this.entry = entry < 0 ? null : entry;
    } else if (this.mode === "paste" && edit.source?.mask && !edit.note && edit.target?.latent !== latent) {
      this.canvas.tool = "move";
      const { right, down } = this.wanted ?? { right: 0, down: 0 };
      this.send("POST", `edits/${this.selected}/paste`, { latent, right, down });
    }
    this.draw();
  }

  /** Show an entry of the context. */
  private open(index: number | null): void {
    const place = this.state.edits[this.selected]?.context[index ?? 0];
    this.entry = place ? (index ?? 0) : null;
    if (place) this.latent.context = place.latent;
    this.draw();
  }

  private take(tool: Tool): void {
    this.canvas.tool = tool;
    this.drawTools();
  }

  private save(): void {
    this.send("POST", "save", {}, () => this.say(`${this.state.file} is saved.`));
  }

  private say(words: string): void {
    this.note.textContent = words;
    clearTimeout(this.noteTimer);
    this.noteTimer = window.setTimeout(() => (this.note.textContent = ""), 6000);
  }

  private key(event: KeyboardEvent): void {
    const typing = (event.target as Element).closest("input:not([type=radio], [type=checkbox], [type=range]), textarea, select");
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "s") {
      event.preventDefault();
      this.save();
    } else if (command && event.key === "Enter") {
      event.preventDefault();
      if (!this.state.problems.length) this.acts.execute();
    } else if (command && event.key.toLowerCase() === "z" && !typing) {
      event.preventDefault();
      this.send("POST", event.shiftKey ? "redo" : "undo", {});
    } else if (!command && !event.altKey && !typing) {
      const tool = TOOLS.find(({ key }) => key === event.key);
      if (tool && (tool.tool !== "move" || this.mode === "paste")) this.take(tool.tool);
      else if ("123".includes(event.key)) this.enter(MODES[Number(event.key) - 1]!);
      else if (event.key === "[" || event.key === "]") {
        this.canvas.radius = Math.max(0.5, this.canvas.radius + (event.key === "]" ? 0.5 : -0.5));
        this.drawTools();
      } else if (event.key === "+" || event.key === "=") this.canvas.zoom(1.25);
      else if (event.key === "-") this.canvas.zoom(0.8);
      else if (event.key === "0") this.canvas.fitWhole();
    }
  }

  private addresses(latent: number): { label: string; address: string }[] {
    const { model, results } = this.state;
    const seed = this.stream === "fresh" ? model.fresh_seed : model.seed;
    const before = { label: results ? "before" : "", address: imageAddress(model.name, seed, latent) };
    if (!results || this.view === "before") return [before];
    const after = { label: "after", address: imageAddress(results.after, seed, latent) };
    return this.view === "after" ? [after] : [before, after];
  }

  private marks(latent: number): string[] {
    const edit = this.state.edits[this.selected];
    if (this.stream === "fresh" || !edit) return [];
    return [
      edit.source?.latent === latent && "Copy",
      edit.target?.latent === latent && "Paste",
      edit.context.some((place) => place.latent === latent) && "Context",
    ].filter((mark): mark is string => Boolean(mark));
  }
}

function title(word: string): string {
  return word[0]!.toUpperCase() + word.slice(1);
}

/** A box in pixels over a thumbnail. */
function frame(box: number[], size: number): HTMLElement {
  const element = h("span", { class: "thumb-frame" });
  const share = box.map((edge) => (100 * edge) / size);
  element.style.inset = `${share[1]}% ${100 - share[2]!}% ${100 - share[3]!}% ${share[0]}%`;
  return element;
}

const root = document.getElementById("studio")!;
new Studio().start(root).catch((error: unknown) => {
  const said = error instanceof Refused ? [error.failure.message, error.failure.hint] : [String(error)];
  root.replaceChildren(h("p", { class: "stopped", role: "alert" }, ...said.join(" ")));
});
