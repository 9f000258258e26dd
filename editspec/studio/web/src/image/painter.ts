// One image, pixel by pixel: a mask under brush, eraser and shapes, what is pasted, and zoom. Knows no spec.

import {
  boundsOf, boxBetween, clamp, fittingScale, fittingView, invert, isEmpty, nearestInside, paintBox, paintEllipse, paintPolygon,
  paintStroke, shiftWithin, toImage, zoomAt, type Mask, type Point, type View,
} from "./geometry";
import { drawScene, glow } from "./drawing";

export type Tool = "brush" | "eraser" | "box" | "ellipse" | "polygon" | "move" | "hand";

/** What the page hears of. */
export interface Listener {
  /** The mask was changed by hand. */
  painted(): void;
  /** What is pasted was moved, and is still held or not. */
  moved(right: number, down: number, held: boolean): void;
  /** Something to be read aloud. */
  said(words: string): void;
}

/** A stroke, a shape or a shift that was begun and not ended. */
interface Gesture {
  begun: Point;
  last: Point;
  /** The shift of what is pasted at its beginning. */
  shift: Point;
  pointer: number;
  panning: boolean;
  erasing: boolean;
}

/** A mask that can be moved about, and its distance from where it was copied. */
export interface Floating {
  mask: Mask;
  right: number;
  down: number;
}

const KEYBOARD = -1;
const NEAR_PIXELS = 8;
const ARROWS: Record<string, Point> = {
  ArrowLeft: { x: -1, y: 0 },
  ArrowRight: { x: 1, y: 0 },
  ArrowUp: { x: 0, y: -1 },
  ArrowDown: { x: 0, y: 1 },
};

export class Painter {
  radius = 2.5;
  colour = "#3b82f6";
  private chosen: Tool = "brush";
  private painted: Mask;
  private image: ImageBitmap | null = null;
  private heat: HTMLCanvasElement | null = null;
  private pasted: Floating | null = null;
  private view: View = { scale: 1, left: 0, top: 0 };
  private fitted = true;
  private cursor: Point;
  private cursorShown = false;
  private byKeyboard = false;
  private gesture: Gesture | null = null;
  private corners: Point[] = [];
  private before: Mask | null = null;
  private waiting = false;

  constructor(
    readonly element: HTMLCanvasElement,
    readonly size: number,
    private readonly listener: Listener,
  ) {
    this.painted = new Uint8Array(size * size);
    this.cursor = { x: Math.floor(size / 2), y: Math.floor(size / 2) };
    const hear = <K extends keyof HTMLElementEventMap>(name: K, then: (event: HTMLElementEventMap[K]) => void) =>
      element.addEventListener(name, then, { passive: false });
    hear("pointerdown", (event) => this.press(event));
    hear("pointermove", (event) => this.drag(event));
    hear("pointerup", (event) => this.release(event));
    hear("pointercancel", () => this.abandon());
    hear("pointerleave", () => this.showCursor(false));
    hear("dblclick", (event) => this.endPolygon(event.altKey));
    hear("wheel", (event) => this.turnWheel(event));
    hear("keydown", (event) => this.key(event));
    hear("focus", () => this.showCursor(element.matches(":focus-visible")));
    hear("blur", () => this.showCursor(false));
    new ResizeObserver(() => this.resized()).observe(element);
  }

  get tool(): Tool {
    return this.chosen;
  }

  /** Take a tool. What another tool has begun is given up. */
  set tool(tool: Tool) {
    if (tool !== this.chosen) this.abandon();
    this.chosen = tool;
    this.draw();
  }

  get mask(): Mask {
    return this.painted;
  }

  get isHeld(): boolean {
    return this.gesture !== null || this.corners.length > 0;
  }

  /** Give up what was begun, and show another mask. */
  showMask(mask: Mask | null): void {
    this.abandon();
    this.painted = mask ? mask.slice() : new Uint8Array(this.size * this.size);
    this.draw();
  }

  /** Change the mask as by hand. */
  change(mask: Mask): void {
    this.showMask(mask);
    this.listener.painted();
  }

  invert(): void {
    this.change(invert(this.painted));
  }

  get isEmpty(): boolean {
    return isEmpty(this.painted);
  }

  show(image: ImageBitmap | null): void {
    this.image = image;
    this.draw();
  }

  showHeat(map: ImageBitmap | null): void {
    this.heat = map && glow(map);
    this.draw();
  }

  float(pasted: Floating | null): void {
    if (this.gesture && this.chosen === "move") return;
    this.pasted = pasted;
    this.element.classList.toggle("floating", pasted !== null);
    this.draw();
  }

  /** The mask as a data URL of a PNG. */
  maskAddress(): string {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = this.size;
    const context = canvas.getContext("2d")!;
    const pixels = context.createImageData(this.size, this.size);
    this.painted.forEach((value, index) => pixels.data.set([value, value, value, 255], 4 * index));
    context.putImageData(pixels, 0, 0);
    return canvas.toDataURL("image/png");
  }

  zoom(factor: number, at: Point = { x: this.size / 2, y: this.size / 2 }): void {
    const smallest = fittingScale(this.size, this.element.clientWidth, this.element.clientHeight) / 2;
    this.view = zoomAt(this.view, factor, at, smallest);
    this.fitted = false;
    this.draw();
  }

  fitWhole(): void {
    this.fitted = true;
    this.resized();
  }

  /** Give up what is held, and the corners of a polygon: the mask is as it was before. */
  abandon(): void {
    if (this.gesture && this.before && this.chosen !== "move") this.painted = this.before;
    this.gesture = null;
    this.corners = [];
    this.draw();
  }

  private resized(): void {
    const { clientWidth, clientHeight } = this.element;
    this.element.width = Math.round(clientWidth * devicePixelRatio);
    this.element.height = Math.round(clientHeight * devicePixelRatio);
    if (this.fitted) this.view = fittingView(this.size, clientWidth, clientHeight);
    this.paint();
  }

  private position(event: MouseEvent): Point {
    const bounds = this.element.getBoundingClientRect();
    const border = this.element.clientLeft;
    return toImage(this.view, event.clientX - bounds.left - border, event.clientY - bounds.top - border);
  }

  private showCursor(shown: boolean): void {
    this.cursorShown = shown;
    this.draw();
  }

  private turnWheel(event: WheelEvent): void {
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.position(event));
  }

  // -- the mouse ------------------------------------------------------------------------------------------------------

  private press(event: PointerEvent): void {
    if (event.button > 1) return;
    this.element.setPointerCapture(event.pointerId);
    this.byKeyboard = false;
    this.begin(this.position(event), event.pointerId, event.altKey, event.button === 1 || this.chosen === "hand");
  }

  private drag(event: PointerEvent): void {
    const at = this.position(event);
    this.byKeyboard = false;
    this.cursor = { x: Math.floor(at.x), y: Math.floor(at.y) };
    this.cursorShown = true;
    // A fast hand moves further than one event says.
    for (const each of this.gesture ? event.getCoalescedEvents() : []) this.goOn(this.position(each));
    this.draw();
  }

  private release(event: PointerEvent): void {
    if (this.gesture?.pointer === event.pointerId) this.end(this.position(event));
  }

  // -- gestures -------------------------------------------------------------------------------------------------------

  private begin(at: Point, pointer: number, erasing: boolean, panning = false): void {
    if (this.chosen === "polygon" && !panning) {
      this.addCorner(at, erasing);
      return;
    }
    const { right: x, down: y } = this.pasted ?? { right: 0, down: 0 };
    this.before = this.painted.slice();
    this.gesture = { begun: at, last: at, shift: { x, y }, pointer, panning, erasing: erasing || this.chosen === "eraser" };
    if (!panning && this.isStroke) this.stroke(at, at);
    this.draw();
  }

  private get isStroke(): boolean {
    return this.chosen === "brush" || this.chosen === "eraser";
  }

  private goOn(at: Point): void {
    const gesture = this.gesture;
    if (!gesture) return;
    if (gesture.panning) this.pan(at.x - gesture.begun.x, at.y - gesture.begun.y);
    else if (this.isStroke) this.stroke(gesture.last, at);
    else if (this.chosen === "move") this.shift(gesture.shift, at.x - gesture.begun.x, at.y - gesture.begun.y);
    else this.shape(gesture, at);
    gesture.last = at;
  }

  private end(at: Point): void {
    const gesture = this.gesture;
    if (!gesture) return;
    this.goOn(at);
    this.gesture = null;
    if (gesture.panning) return;
    if (this.chosen !== "move") this.listener.painted();
    else if (this.pasted) this.listener.moved(this.pasted.right, this.pasted.down, false);
    this.draw();
  }

  private pan(right: number, down: number): void {
    this.view = {
      ...this.view,
      left: this.view.left + right * this.view.scale,
      top: this.view.top + down * this.view.scale,
    };
    this.fitted = false;
  }

  private stroke(from: Point, to: Point): void {
    paintStroke(this.painted, this.size, from, to, this.radius, this.gesture?.erasing ? 0 : 255);
  }

  private shape(gesture: Gesture, to: Point): void {
    const mask = this.before!.slice();
    const paint = this.chosen === "box" ? paintBox : paintEllipse;
    paint(mask, this.size, boxBetween(gesture.begun, to), gesture.erasing ? 0 : 255);
    this.painted = mask;
  }

  private shift(from: Point, right: number, down: number): void {
    if (!this.pasted) return;
    const to = shiftWithin(boundsOf(this.pasted.mask, this.size), this.size, from.x + right, from.y + down);
    if (to.right === this.pasted.right && to.down === this.pasted.down) return;
    this.pasted = { ...this.pasted, ...to };
    this.listener.moved(to.right, to.down, this.gesture !== null);
  }

  // -- polygons -------------------------------------------------------------------------------------------------------

  private addCorner(at: Point, erasing: boolean): void {
    const [first, last] = [this.corners[0], this.corners.at(-1)];
    if (first && this.corners.length > 2 && this.isNear(first, at)) this.closePolygon(erasing);
    // The second press of a double click adds nothing.
    else if (!last || !this.isSame(last, at)) this.corners.push(nearestInside(at, this.size));
    this.draw();
  }

  private isNear(corner: Point, at: Point): boolean {
    return Math.hypot(corner.x - at.x, corner.y - at.y) * this.view.scale < NEAR_PIXELS;
  }

  private isSame(corner: Point, at: Point): boolean {
    return Math.hypot(corner.x - at.x, corner.y - at.y) * this.view.scale < 1;
  }

  /** A double click ends a polygon, whether it can be closed or not. */
  private endPolygon(erasing: boolean): void {
    this.closePolygon(erasing);
    this.corners = [];
    this.draw();
  }

  private closePolygon(erasing: boolean): void {
    if (this.corners.length < 3) return;
    const mask = this.painted.slice();
    paintPolygon(mask, this.size, this.corners, erasing ? 0 : 255);
    this.corners = [];
    this.painted = mask;
    this.listener.said("polygon closed");
    this.listener.painted();
    this.draw();
  }

  // -- the keyboard ---------------------------------------------------------------------------------------------------

  private key(event: KeyboardEvent): void {
    const arrow = ARROWS[event.key];
    if (arrow && !event.ctrlKey && !event.metaKey) this.arrow(arrow, event.shiftKey ? 8 : 1);
    else if (event.key === " ") this.pen(event.altKey);
    else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) this.closePolygon(event.altKey);
    else if (event.key === "Escape") this.abandon();
    else return;
    event.preventDefault();
  }

  private arrow(arrow: Point, far: number): void {
    this.byKeyboard = this.cursorShown = true;
    const [right, down] = [arrow.x * far, arrow.y * far];
    if (this.chosen === "hand") this.pan(-right, -down);
    else if (this.chosen === "move" && this.pasted) {
      this.shift({ x: this.pasted.right, y: this.pasted.down }, right, down);
    } else {
      const within = (value: number) => clamp(value, 0, this.size - 1);
      this.cursor = { x: within(this.cursor.x + right), y: within(this.cursor.y + down) };
      this.goOn(this.penPoint());
      this.listener.said(`column ${this.cursor.x}, row ${this.cursor.y}`);
    }
    this.draw();
  }

  private pen(erasing: boolean): void {
    if (this.gesture) {
      this.end(this.penPoint());
      this.listener.said("pen up");
    } else if (this.chosen !== "move" && this.chosen !== "hand") {
      this.begin(this.penPoint(), KEYBOARD, erasing);
      this.listener.said(this.chosen === "polygon" ? `corner ${this.corners.length}` : "pen down");
    }
  }

  /** Where the keyboard paints: corners lie on the edges of pixels, strokes run through their middle. */
  private penPoint(): Point {
    const half = this.isStroke ? 0.5 : 0;
    return { x: this.cursor.x + half, y: this.cursor.y + half };
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  /** Draw at the next frame. */
  private draw(): void {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    this.waiting = false;
    this.element.dataset["scale"] = String(this.view.scale);
    this.element.dataset["corners"] = String(this.corners.length);
    const isPainting = this.chosen !== "move" && this.chosen !== "hand";
    drawScene(this.element, {
      size: this.size,
      view: this.view,
      colour: this.colour,
      image: this.image,
      heat: this.heat,
      mask: this.painted,
      pasted: this.pasted,
      corners: this.corners,
      cursor: this.cursorShown ? this.cursor : null,
      brush: this.isStroke ? this.radius : null,
      cross: isPainting && this.byKeyboard,
    });
  }
}
