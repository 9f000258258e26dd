// One image, pixel by pixel: its mask under brush, eraser and shapes, what is pasted, and zoom. Knows no spec.

export type Tool = "brush" | "eraser" | "box" | "ellipse" | "polygon" | "move" | "hand";
type Point = { x: number; y: number };

export interface Painted {
  /** The mask was changed by hand. */
  painted(): void;
  /** What is pasted was moved, and is still held or not. */
  moved(right: number, down: number, held: boolean): void;
  /** Something to be read aloud. */
  said(words: string): void;
}

export class PixelCanvas {
  readonly element = document.createElement("canvas");
  tool: Tool = "brush";
  radius = 2.5;
  colour = "#3b82f6";
  mask: Uint8Array;
  private image: ImageBitmap | null = null;
  private heat: HTMLCanvasElement | null = null;
  private floating: { mask: Uint8Array; right: number; down: number } | null = null;
  private scale = 1;
  private offset: Point = { x: 0, y: 0 };
  private fitted = true;
  private cursor: Point = { x: 0, y: 0 };
  private cursorShown = false;
  private keyboard = false;
  private hold: { begun: Point; last: Point; corner: Point; pointer: number; panning: boolean } | null = null;
  private corners: Point[] = [];
  private before: Uint8Array | null = null;
  private waiting = false;
  private readonly tint = document.createElement("canvas");

  constructor(
    readonly size: number,
    private readonly hears: Painted,
  ) {
    this.mask = new Uint8Array(size * size);
    this.tint.width = this.tint.height = size;
    this.cursor = { x: Math.floor(size / 2), y: Math.floor(size / 2) };
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "application");
    this.element.setAttribute("aria-roledescription", "painting");
    this.element.addEventListener("pointerdown", (event) => this.press(event));
    this.element.addEventListener("pointermove", (event) => this.drag(event));
    this.element.addEventListener("pointerup", (event) => this.release(event));
    this.element.addEventListener("pointercancel", () => this.abandon());
    this.element.addEventListener("pointerleave", () => this.showCursor(false));
    this.element.addEventListener("dblclick", () => this.closePolygon());
    this.element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("focus", () => this.showCursor(this.element.matches(":focus-visible")));
    this.element.addEventListener("blur", () => this.showCursor(false));
    new ResizeObserver(() => this.resized()).observe(this.element);
  }

  get isHeld(): boolean {
    return this.hold !== null || this.corners.length > 0;
  }

  get isEmpty(): boolean {
    return !this.mask.some((value) => value > 0);
  }

  show(image: ImageBitmap | null): void {
    this.image = image;
    this.draw();
  }

  showMask(mask: Uint8Array | null): void {
    this.abandon();
    this.mask = mask ? mask.slice() : new Uint8Array(this.size * this.size);
    this.draw();
  }

  showHeat(map: ImageBitmap | null): void {
    this.heat = map ? glow(map) : null;
    this.draw();
  }

  /** Show a mask that can be moved about, at a distance from where it was copied. */
  float(mask: Uint8Array | null, right = 0, down = 0): void {
    if (this.hold && this.tool === "move") return;
    this.floating = mask ? { mask, right, down } : null;
    this.element.classList.toggle("floating", mask !== null);
    this.draw();
  }

  /** The mask as a data URL of a PNG. */
  maskAddress(): string {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = this.size;
    const context = canvas.getContext("2d")!;
    const pixels = context.createImageData(this.size, this.size);
    this.mask.forEach((value, index) => pixels.data.set([value, value, value, 255], 4 * index));
    context.putImageData(pixels, 0, 0);
    return canvas.toDataURL("image/png");
  }

  zoom(factor: number, at: Point = { x: this.size / 2, y: this.size / 2 }): void {
    const whole = this.scale >= 1 ? Math.round(this.scale * factor) || 1 : this.scale * factor;
    const scale = Math.min(64, Math.max(this.fit() / 2, factor > 1 ? Math.max(whole, this.scale + 1) : whole));
    this.offset.x += at.x * (this.scale - scale);
    this.offset.y += at.y * (this.scale - scale);
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  fitWhole(): void {
    this.fitted = true;
    this.resized();
  }

  private fit(): number {
    const side = Math.min(this.element.clientWidth, this.element.clientHeight) / this.size;
    return side >= 1 ? Math.floor(side) : side;
  }

  private resized(): void {
    const ratio = devicePixelRatio;
    this.element.width = Math.round(this.element.clientWidth * ratio);
    this.element.height = Math.round(this.element.clientHeight * ratio);
    if (this.fitted) {
      this.scale = this.fit();
      this.offset.x = Math.floor((this.element.clientWidth - this.size * this.scale) / 2);
      this.offset.y = Math.floor((this.element.clientHeight - this.size * this.scale) / 2);
    }
    this.paint();
  }

  private position(event: MouseEvent): Point {
    const bounds = this.element.getBoundingClientRect();
    return {
      x: (event.clientX - bounds.left - this.offset.x) / this.scale,
      y: (event.clientY - bounds.top - this.offset.y) / this.scale,
    };
  }

  private showCursor(shown: boolean): void {
    this.cursorShown = shown;
    this.draw();
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.position(event));
  }

  private press(event: PointerEvent): void {
    if (event.button > 1) return;
    this.element.setPointerCapture(event.pointerId);
    this.keyboard = false;
    const at = this.position(event);
    this.begin(at, event.pointerId, event.button === 1 || this.tool === "hand");
  }

  private drag(event: PointerEvent): void {
    const at = this.position(event);
    this.keyboard = false;
    this.cursor = { x: Math.floor(at.x), y: Math.floor(at.y) };
    this.cursorShown = true;
    for (const each of this.hold ? event.getCoalescedEvents() : []) this.goOn(this.position(each));
    this.draw();
  }

  private release(event: PointerEvent): void {
    if (this.hold?.pointer === event.pointerId) this.end(this.position(event));
  }

  private begin(at: Point, pointer: number, panning = false): void {
    this.hold = { begun: at, last: at, corner: at, pointer, panning };
    this.before = this.mask.slice();
    if (panning) return;
    if (this.tool === "polygon") {
      const first = this.corners[0];
      if (first && this.corners.length > 2 && Math.hypot(first.x - at.x, first.y - at.y) * this.scale < 8) {
        this.hold = null;
        this.closePolygon();
        return;
      }
      this.corners.push(this.inside(at));
      this.hold = null;
    } else if (this.tool === "brush" || this.tool === "eraser") this.stroke(at, at);
    else if (this.tool === "move" && this.floating) {
      this.hold.corner = { x: this.floating.right, y: this.floating.down };
    }
    this.draw();
  }

  private goOn(at: Point): void {
    const hold = this.hold;
    if (!hold) return;
    if (hold.panning) {
      this.offset.x += (at.x - hold.begun.x) * this.scale;
      this.offset.y += (at.y - hold.begun.y) * this.scale;
      this.fitted = false;
      return;
    }
    if (this.tool === "brush" || this.tool === "eraser") this.stroke(hold.last, at);
    else if (this.tool === "box" || this.tool === "ellipse") this.shape(hold.begun, at);
    else if (this.tool === "move") this.shift(hold, at);
    hold.last = at;
  }

  private end(at: Point): void {
    const hold = this.hold;
    if (!hold) return;
    this.goOn(at);
    this.hold = null;
    if (hold.panning) return;
    if (this.tool === "move") {
      if (this.floating) this.hears.moved(this.floating.right, this.floating.down, false);
    } else this.hears.painted();
    this.draw();
  }

  /** Give up what is held: the mask is as it was before. */
  private abandon(): void {
    if (this.hold && this.before && this.tool !== "move") this.mask = this.before;
    this.hold = null;
    this.corners = [];
    this.draw();
  }

  private inside(at: Point): Point {
    const clamp = (value: number) => Math.min(this.size, Math.max(0, value));
    return { x: clamp(at.x), y: clamp(at.y) };
  }

  /** A line of discs. A pixel counts where its centre lies within the brush. */
  private stroke(from: Point, to: Point): void {
    const value = this.tool === "eraser" ? 0 : 255;
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to.x - from.x, to.y - from.y)));
    for (let step = 0; step <= steps; step++) {
      const x = from.x + ((to.x - from.x) * step) / steps;
      const y = from.y + ((to.y - from.y) * step) / steps;
      this.fill(x - this.radius, y - this.radius, x + this.radius, y + this.radius, value, (px, py) => {
        return (px - x) ** 2 + (py - y) ** 2 <= Math.max(this.radius, 0.71) ** 2;
      });
    }
  }

  private shape(from: Point, to: Point): void {
    if (!this.before) return;
    this.mask = this.before.slice();
    const [left, right] = [Math.round(Math.min(from.x, to.x)), Math.round(Math.max(from.x, to.x))];
    const [top, bottom] = [Math.round(Math.min(from.y, to.y)), Math.round(Math.max(from.y, to.y))];
    const [x, y, a, b] = [(left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2];
    this.fill(left, top, right, bottom, 255, (px, py) => {
      return this.tool === "box" || ((px - x) / a) ** 2 + ((py - y) / b) ** 2 <= 1;
    });
  }

  private closePolygon(): void {
    if (this.corners.length < 3) return;
    const corners = this.corners;
    this.corners = [];
    this.fill(0, 0, this.size, this.size, 255, (px, py) => {
      let odd = false;
      corners.forEach((a, index) => {
        const b = corners[(index + 1) % corners.length]!;
        if (a.y > py !== b.y > py && px < a.x + ((py - a.y) * (b.x - a.x)) / (b.y - a.y)) odd = !odd;
      });
      return odd;
    });
    this.hears.painted();
    this.draw();
  }

  private fill(
    left: number, top: number, right: number, bottom: number, value: number,
    within: (x: number, y: number) => boolean,
  ): void {
    const low = (edge: number) => Math.max(0, Math.floor(edge));
    const high = (edge: number) => Math.min(this.size, Math.ceil(edge));
    for (let y = low(top); y < high(bottom); y++)
      for (let x = low(left); x < high(right); x++)
        if (within(x + 0.5, y + 0.5)) this.mask[y * this.size + x] = value;
  }

  private shift(hold: { begun: Point; corner: Point }, at: Point): void {
    if (!this.floating) return;
    const bounds = boundsOf(this.floating.mask, this.size);
    const within = (value: number, low: number, high: number) => Math.min(this.size - high, Math.max(-low, value));
    const right = within(Math.round(hold.corner.x + at.x - hold.begun.x), bounds.left, bounds.right);
    const down = within(Math.round(hold.corner.y + at.y - hold.begun.y), bounds.top, bounds.bottom);
    if (right === this.floating.right && down === this.floating.down) return;
    this.floating = { ...this.floating, right, down };
    this.hears.moved(right, down, true);
  }

  private key(event: KeyboardEvent): void {
    const arrows: Record<string, Point> = {
      ArrowLeft: { x: -1, y: 0 }, ArrowRight: { x: 1, y: 0 }, ArrowUp: { x: 0, y: -1 }, ArrowDown: { x: 0, y: 1 },
    };
    const arrow = arrows[event.key];
    if (arrow && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.keyboard = this.cursorShown = true;
      const far = event.shiftKey ? 8 : 1;
      if (this.tool === "hand") {
        this.offset.x -= arrow.x * far * this.scale;
        this.offset.y -= arrow.y * far * this.scale;
        this.fitted = false;
      } else if (this.tool === "move" && this.floating) {
        const { right, down } = this.floating;
        const at = { x: arrow.x * far, y: arrow.y * far };
        this.shift({ begun: { x: 0, y: 0 }, corner: { x: right, y: down } }, at);
        if (this.floating) this.hears.moved(this.floating.right, this.floating.down, false);
      } else {
        const clamp = (value: number) => Math.min(this.size - 1, Math.max(0, value));
        this.cursor = { x: clamp(this.cursor.x + arrow.x * far), y: clamp(this.cursor.y + arrow.y * far) };
        if (this.hold) this.goOn(this.centre());
        this.hears.said(`column ${this.cursor.x}, row ${this.cursor.y}`);
      }
      this.draw();
    } else if (event.key === " ") {
      event.preventDefault();
      if (this.hold) {
        this.end(this.centre());
        this.hears.said("pen up");
      } else if (this.tool !== "move" && this.tool !== "hand") {
        this.begin(this.centre(), -1);
        this.hears.said(this.tool === "polygon" ? `corner ${this.corners.length}` : "pen down");
      }
    } else if (event.key === "Enter") this.closePolygon();
    else if (event.key === "Escape") this.abandon();
  }

  private centre(): Point {
    // Corners of shapes lie on the edges of pixels, strokes run through their middle.
    const half = this.tool === "brush" || this.tool === "eraser" ? 0.5 : 0;
    return { x: this.cursor.x + half, y: this.cursor.y + half };
  }

  private draw(): void {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    this.waiting = false;
    const context = this.element.getContext("2d");
    if (!context) return;
    this.element.dataset["scale"] = String(this.scale);
    const ratio = devicePixelRatio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.element.clientWidth, this.element.clientHeight);
    context.imageSmoothingEnabled = false;
    const side = this.size * this.scale;
    if (this.image) context.drawImage(this.image, this.offset.x, this.offset.y, side, side);
    if (this.heat) context.drawImage(this.heat, this.offset.x, this.offset.y, side, side);
    this.cover(context, this.mask, 0, 0);
    if (this.floating) this.cover(context, this.floating.mask, this.floating.right, this.floating.down);
    this.frame(context);
  }

  /** A mask as a tint with an outline along the edges of its pixels. */
  private cover(context: CanvasRenderingContext2D, mask: Uint8Array, right: number, down: number): void {
    const tint = this.tint.getContext("2d")!;
    const pixels = tint.createImageData(this.size, this.size);
    const [r, g, b] = [1, 3, 5].map((start) => parseInt(this.colour.slice(start, start + 2), 16));
    const opacity = this.heat ? 0 : this.floating ? 0.12 : 0.4;
    mask.forEach((value, index) => {
      if (!value) return;
      pixels.data[4 * index] = r!;
      pixels.data[4 * index + 1] = g!;
      pixels.data[4 * index + 2] = b!;
      pixels.data[4 * index + 3] = value * opacity;
    });
    const outline = this.scale >= 2 ? this.outline(mask, right, down) : new Path2D();
    tint.putImageData(pixels, 0, 0);
    const side = this.size * this.scale;
    const place = [this.offset.x + right * this.scale, this.offset.y + down * this.scale] as const;
    context.save();
    context.beginPath();
    context.rect(this.offset.x, this.offset.y, side, side);
    context.clip();
    context.drawImage(this.tint, place[0], place[1], side, side);
    context.strokeStyle = "rgb(255 255 255 / 0.9)";
    context.lineWidth = 3;
    context.stroke(outline);
    context.strokeStyle = this.colour;
    context.lineWidth = 1.5;
    context.stroke(outline);
    context.restore();
  }

  /** The edges of a mask's pixels, as far as they are in sight. */
  private outline(mask: Uint8Array, right: number, down: number): Path2D {
    const outline = new Path2D();
    const at = (x: number, y: number) =>
      x >= 0 && y >= 0 && x < this.size && y < this.size && mask[y * this.size + x]! > 127;
    const seen = (length: number, offset: number, moved: number): [number, number] => [
      Math.max(0, Math.floor(-offset / this.scale) - moved),
      Math.min(this.size, Math.ceil((length - offset) / this.scale) - moved),
    ];
    const columns = seen(this.element.clientWidth, this.offset.x, right);
    const rows = seen(this.element.clientHeight, this.offset.y, down);
    for (let y = rows[0]; y <= rows[1]; y++)
      for (let x = columns[0]; x <= columns[1]; x++) {
        const left = this.offset.x + (x + right) * this.scale;
        const top = this.offset.y + (y + down) * this.scale;
        if (at(x, y) !== at(x - 1, y)) {
          outline.moveTo(left, top);
          outline.lineTo(left, top + this.scale);
        }
        if (at(x, y) !== at(x, y - 1)) {
          outline.moveTo(left, top);
          outline.lineTo(left + this.scale, top);
        }
      }
    return outline;
  }

  private frame(context: CanvasRenderingContext2D): void {
    const x = (value: number) => this.offset.x + value * this.scale;
    const y = (value: number) => this.offset.y + value * this.scale;
    context.lineWidth = 1.5;
    if (this.corners.length > 0) {
      context.beginPath();
      this.corners.forEach((corner) => context.lineTo(x(corner.x), y(corner.y)));
      if (this.cursorShown) context.lineTo(x(this.cursor.x + 0.5), y(this.cursor.y + 0.5));
      context.strokeStyle = this.colour;
      context.stroke();
    }
    if (!this.cursorShown || this.tool === "move" || this.tool === "hand") return;
    context.beginPath();
    const brushing = this.tool === "brush" || this.tool === "eraser";
    if (brushing) {
      context.arc(x(this.cursor.x + 0.5), y(this.cursor.y + 0.5), Math.max(this.radius, 0.71) * this.scale, 0, 7);
    } else if (this.keyboard) {
      context.moveTo(x(this.cursor.x) - 8, y(this.cursor.y));
      context.lineTo(x(this.cursor.x) + 8, y(this.cursor.y));
      context.moveTo(x(this.cursor.x), y(this.cursor.y) - 8);
      context.lineTo(x(this.cursor.x), y(this.cursor.y) + 8);
    }
    context.strokeStyle = "rgb(255 255 255 / 0.95)";
    context.lineWidth = 2.5;
    context.stroke();
    context.strokeStyle = "rgb(0 0 0 / 0.75)";
    context.lineWidth = 1;
    context.stroke();
  }
}

/** The pixels of a grey image as a mask. */
export function maskOf(image: ImageBitmap, size: number): Uint8Array {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d")!;
  context.drawImage(image, 0, 0, size, size);
  const { data } = context.getImageData(0, 0, size, size);
  return new Uint8Array(size * size).map((_, index) => data[4 * index]!);
}

export function boundsOf(mask: Uint8Array, size: number): { left: number; top: number; right: number; bottom: number } {
  const found = { left: size, top: size, right: 0, bottom: 0 };
  mask.forEach((value, index) => {
    if (!value) return;
    const [x, y] = [index % size, Math.floor(index / size)];
    found.left = Math.min(found.left, x);
    found.top = Math.min(found.top, y);
    found.right = Math.max(found.right, x + 1);
    found.bottom = Math.max(found.bottom, y + 1);
  });
  return found.right ? found : { left: 0, top: 0, right: size, bottom: size };
}

/** A grey map as light: dark where there is nothing, amber where the key responds. */
function glow(map: ImageBitmap): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d")!;
  context.drawImage(map, 0, 0);
  const pixels = context.getImageData(0, 0, map.width, map.height);
  for (let index = 0; index < pixels.data.length; index += 4) {
    const value = (pixels.data[index]! / 255) ** 1.5;
    pixels.data.set([255 * value, 160 * value, 30 * (1 - value), 255 * (0.74 - 0.36 * value)], index);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
