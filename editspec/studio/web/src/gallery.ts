// Images without end: only the rows in sight are elements. One stop of the tabulator; arrows go from image to image.

import { h } from "./dom";

export interface Shown {
  /** The addresses of an image: one, or before and after. */
  addresses(latent: number): { label: string; address: string }[];
  /** What an image is used for, as short words. */
  marks(latent: number): string[];
}

const CELL = 128;
const GAP = 6;
const LINE = 18;

export class Gallery {
  readonly element = h("div", { class: "gallery", role: "listbox", "aria-label": "Images of the model" });
  private readonly inner = h("div", { class: "gallery-inner" });
  private rows = new Map<number, HTMLElement>();
  private columns = 0;
  private known = 200;
  private current = 0;

  constructor(
    private readonly shown: Shown,
    private readonly choose: (latent: number) => void,
  ) {
    this.inner.setAttribute("role", "presentation");
    this.element.append(this.inner);
    this.element.addEventListener("scroll", () => this.fill());
    this.element.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.refresh()).observe(this.element);
  }

  /** Draw all anew: another model, other marks, or other widths. */
  refresh(): void {
    if (!this.element.clientWidth) return;
    const focused = this.element.contains(document.activeElement);
    this.rows.clear();
    this.inner.replaceChildren();
    const wide = (CELL + 2) * this.shown.addresses(0).length - 2 + GAP;
    this.columns = Math.max(1, Math.floor((this.element.clientWidth - 2) / wide));
    this.fill();
    if (focused) this.focus(this.current);
  }

  /** Bring an image into sight, and the focus to it. */
  focus(latent: number): void {
    this.current = latent;
    const row = Math.floor(latent / this.columns);
    const [top, height] = [row * (CELL + LINE + GAP), this.element.clientHeight];
    this.grow(row);
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    if (top + CELL + LINE > this.element.scrollTop + height) this.element.scrollTop = top + CELL + LINE + GAP - height;
    this.fill();
    this.tile(latent)?.focus({ preventScroll: true });
  }

  private tile(latent: number): HTMLElement | null {
    return this.inner.querySelector(`[data-latent="${latent}"]`);
  }

  private grow(row: number): void {
    if (row > this.known - 50) this.known = row + 200;
    this.inner.style.height = `${this.known * (CELL + LINE + GAP)}px`;
  }

  private fill(): void {
    if (!this.columns || !this.element.clientHeight) return;
    const high = CELL + LINE + GAP;
    const first = Math.max(0, Math.floor(this.element.scrollTop / high) - 1);
    const last = Math.ceil((this.element.scrollTop + this.element.clientHeight) / high) + 1;
    this.grow(last);
    for (const [row, element] of this.rows)
      if ((row < first || row > last) && !element.contains(document.activeElement)) {
        element.remove();
        this.rows.delete(row);
      }
    for (let row = first; row <= last; row++) if (!this.rows.has(row)) this.add(row);
    if (!this.tile(this.current)) this.current = first * this.columns;
    this.inner.querySelectorAll<HTMLElement>("[data-latent]").forEach((tile) => {
      tile.tabIndex = Number(tile.dataset["latent"]) === this.current ? 0 : -1;
    });
  }

  private add(row: number): void {
    const tiles = Array.from({ length: this.columns }, (_, column) => this.made(row * this.columns + column));
    const element = h("div", { class: "gallery-row", role: "presentation" }, ...tiles);
    element.style.top = `${row * (CELL + LINE + GAP)}px`;
    this.rows.set(row, element);
    this.inner.append(element);
  }

  private made(latent: number): HTMLElement {
    const marks = this.shown.marks(latent);
    const images = this.shown.addresses(latent);
    return h(
      "div",
      {
        class: "tile", role: "option", "aria-selected": String(marks.length > 0), "data-latent": latent,
        tabindex: -1,
        onclick: () => this.chosen(latent),
      },
      h(
        "span", { class: "tile-images" },
        ...images.map(({ label, address }) => h("img", { src: address, alt: "", title: label, width: CELL, height: CELL })),
      ),
      h(
        "span", { class: "tile-line" },
        h("span", { class: "tile-number" }, h("span", { class: "unseen" }, "Image "), String(latent)),
        ...marks.map((mark) => h("span", { class: `mark mark-${mark.toLowerCase()}` }, mark)),
      ),
    );
  }

  private chosen(latent: number): void {
    this.current = latent;
    this.choose(latent);
  }

  private key(event: KeyboardEvent): void {
    const page = this.columns * Math.max(1, Math.floor(this.element.clientHeight / (CELL + LINE + GAP)));
    const steps: Record<string, number> = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page,
      Home: -this.current,
    };
    const step = steps[event.key];
    if (step !== undefined) {
      event.preventDefault();
      this.focus(Math.max(0, this.current + step));
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.chosen(this.current);
    }
  }
}
