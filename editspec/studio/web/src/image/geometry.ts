// Masks and views as numbers: what brush, shapes and polygons cover, and where pixels lie on the screen.

export interface Point {
  x: number;
  y: number;
}

export interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** A square mask, a byte for each pixel, row by row: 255 inside. */
export type Mask = Uint8Array;

/** Where an image lies on the screen: its first pixel, and the size of each. */
export interface View {
  scale: number;
  left: number;
  top: number;
}

const LARGEST_SCALE = 64;

/** The smallest brush covers one pixel: the corner of a pixel is this far from its middle. */
const HALF_DIAGONAL = 0.71;

/** Set all pixels within some bounds whose centres a test accepts. */
function fill(mask: Mask, size: number, bounds: Box, value: number, accepts: (x: number, y: number) => boolean): void {
  const top = Math.max(0, Math.floor(bounds.top));
  const left = Math.max(0, Math.floor(bounds.left));
  const bottom = Math.min(size, Math.ceil(bounds.bottom));
  const right = Math.min(size, Math.ceil(bounds.right));
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      if (accepts(x + 0.5, y + 0.5)) mask[y * size + x] = value;
    }
  }
}

/** Paint a line of discs. A pixel counts where its centre lies within a disc. */
export function paintStroke(mask: Mask, size: number, from: Point, to: Point, radius: number, value: number): void {
  const reach = Math.max(radius, HALF_DIAGONAL);
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(to.x - from.x, to.y - from.y)));
  for (let step = 0; step <= steps; step++) {
    const x = from.x + ((to.x - from.x) * step) / steps;
    const y = from.y + ((to.y - from.y) * step) / steps;
    const bounds = { left: x - reach, top: y - reach, right: x + reach, bottom: y + reach };
    fill(mask, size, bounds, value, (px, py) => (px - x) ** 2 + (py - y) ** 2 <= reach ** 2);
  }
}

/** The rectangle of whole pixels between two corners. */
export function boxBetween(from: Point, to: Point): Box {
  return {
    left: Math.round(Math.min(from.x, to.x)),
    top: Math.round(Math.min(from.y, to.y)),
    right: Math.round(Math.max(from.x, to.x)),
    bottom: Math.round(Math.max(from.y, to.y)),
  };
}

export function paintBox(mask: Mask, size: number, box: Box, value: number): void {
  fill(mask, size, box, value, () => true);
}

/** Paint the ellipse inside a rectangle. */
export function paintEllipse(mask: Mask, size: number, box: Box, value: number): void {
  const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  const [a, b] = [(box.right - box.left) / 2, (box.bottom - box.top) / 2];
  fill(mask, size, box, value, (px, py) => ((px - x) / a) ** 2 + ((py - y) / b) ** 2 <= 1);
}

/** Paint what lies inside a polygon, by the even-odd rule. */
export function paintPolygon(mask: Mask, size: number, corners: Point[], value: number): void {
  const whole = { left: 0, top: 0, right: size, bottom: size };
  fill(mask, size, whole, value, (px, py) => isInside({ x: px, y: py }, corners));
}

/** Tell whether a ray from a point crosses the edges of a polygon an odd number of times. */
export function isInside(point: Point, corners: Point[]): boolean {
  let odd = false;
  corners.forEach((a, index) => {
    const b = corners[(index + 1) % corners.length]!;
    const crosses = a.y > point.y !== b.y > point.y;
    if (crosses && point.x < a.x + ((point.y - a.y) * (b.x - a.x)) / (b.y - a.y)) odd = !odd;
  });
  return odd;
}

export function invert(mask: Mask): Mask {
  return mask.map((value) => 255 - value);
}

export function isEmpty(mask: Mask): boolean {
  return !mask.some((value) => value > 0);
}

/** The smallest box around what a mask covers; the whole image where it covers nothing. */
export function boundsOf(mask: Mask, size: number): Box {
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

/** The nearest shift to a wanted one that keeps a box inside the image. */
export function shiftWithin(bounds: Box, size: number, right: number, down: number): { right: number; down: number } {
  return {
    right: clamp(Math.round(right), -bounds.left, size - bounds.right),
    down: clamp(Math.round(down), -bounds.top, size - bounds.bottom),
  };
}

export function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}

/** The point of an image that is nearest to a point. */
export function nearestInside(at: Point, size: number): Point {
  return { x: clamp(at.x, 0, size), y: clamp(at.y, 0, size) };
}

/** The largest whole scale at which an image fits; less than one where it is larger than the screen. */
export function fittingScale(size: number, width: number, height: number): number {
  const scale = Math.min(width, height) / size;
  return scale >= 1 ? Math.floor(scale) : scale;
}

/** The view of a whole image in the middle. */
export function fittingView(size: number, width: number, height: number): View {
  const scale = fittingScale(size, width, height);
  return {
    scale,
    left: Math.floor((width - size * scale) / 2),
    top: Math.floor((height - size * scale) / 2),
  };
}

/** Zoom, at least by one whole step, so that the point `at` of the image stays where it is. */
export function zoomAt(view: View, factor: number, at: Point, smallest: number): View {
  const wanted = view.scale >= 1 ? Math.round(view.scale * factor) || 1 : view.scale * factor;
  const stepped = factor > 1 ? Math.max(wanted, view.scale + 1) : wanted;
  const scale = clamp(stepped, smallest, LARGEST_SCALE);
  return {
    scale,
    left: view.left + at.x * (view.scale - scale),
    top: view.top + at.y * (view.scale - scale),
  };
}

/** The point of the image that lies at a point of the screen. */
export function toImage(view: View, x: number, y: number): Point {
  return { x: (x - view.left) / view.scale, y: (y - view.top) / view.scale };
}

/** Lines of the screen, from x1, y1 to x2, y2. */
export type Segment = [number, number, number, number];

/** The edges between the pixels inside and outside of a mask, as far as they are in sight. */
export function outlineOf(
  mask: Mask, size: number, view: View, shift: { right: number; down: number }, width: number, height: number,
): Segment[] {
  const inside = (x: number, y: number) => x >= 0 && y >= 0 && x < size && y < size && mask[y * size + x]! > 127;
  const first = (offset: number, moved: number) => Math.max(0, Math.floor(-offset / view.scale) - moved);
  const last = (length: number, offset: number, moved: number) =>
    Math.min(size, Math.ceil((length - offset) / view.scale) - moved);
  const found: Segment[] = [];
  for (let y = first(view.top, shift.down); y <= last(height, view.top, shift.down); y++) {
    for (let x = first(view.left, shift.right); x <= last(width, view.left, shift.right); x++) {
      const left = view.left + (x + shift.right) * view.scale;
      const top = view.top + (y + shift.down) * view.scale;
      if (inside(x, y) !== inside(x - 1, y)) found.push([left, top, left, top + view.scale]);
      if (inside(x, y) !== inside(x, y - 1)) found.push([left, top, left + view.scale, top]);
    }
  }
  return found;
}
