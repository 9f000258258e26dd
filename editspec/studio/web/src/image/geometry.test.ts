import { describe, expect, it } from "vitest";
import {
  boundsOf, boxBetween, fittingView, invert, isEmpty, isInside, outlineOf, paintBox, paintEllipse, paintPolygon, paintStroke,
  shiftWithin, toImage, zoomAt, type Mask,
} from "./geometry";

const SIZE = 16;

function blank(): Mask {
  return new Uint8Array(SIZE * SIZE);
}

function pixels(mask: Mask): string[] {
  return [...mask.keys()].filter((index) => mask[index]! > 127).map((index) => `${index % SIZE},${Math.floor(index / SIZE)}`);
}

/** The pixels whose centres a test accepts, found without the code that is tested. */
function those(accepts: (x: number, y: number) => boolean): string[] {
  const found: string[] = [];
  for (let y = 0; y < SIZE; y++) for (let x = 0; x < SIZE; x++) if (accepts(x + 0.5, y + 0.5)) found.push(`${x},${y}`);
  return found;
}

describe("a stroke", () => {
  it("covers the pixels whose centres are near the line", () => {
    const mask = blank();
    paintStroke(mask, SIZE, { x: 4, y: 8 }, { x: 12, y: 8 }, 2, 255);
    const near = those((x, y) => Math.hypot(x - Math.min(12, Math.max(4, x)), y - 8) <= 2);
    expect(pixels(mask)).toEqual(near);
  });

  it("covers one pixel with the smallest brush, and leaves none out when it is fast", () => {
    const dot = blank();
    paintStroke(dot, SIZE, { x: 3.5, y: 5.5 }, { x: 3.5, y: 5.5 }, 0.5, 255);
    expect(pixels(dot)).toEqual(["3,5"]);
    const line = blank();
    paintStroke(line, SIZE, { x: 0.5, y: 0.5 }, { x: 15.5, y: 15.5 }, 0.5, 255);
    for (let each = 0; each < SIZE; each++) expect(pixels(line)).toContain(`${each},${each}`);
  });

  it("erases, and ends at the edge of the image", () => {
    const mask = blank().fill(255);
    paintStroke(mask, SIZE, { x: 0, y: 0 }, { x: 0, y: 0 }, 3, 0);
    expect(mask[0]).toBe(0);
    expect(mask[15]).toBe(255);
    expect(mask.length).toBe(SIZE * SIZE);
  });
});

describe("shapes", () => {
  it("are boxes of whole pixels, whichever corner comes first", () => {
    const mask = blank();
    paintBox(mask, SIZE, boxBetween({ x: 9.6, y: 3.2 }, { x: 2.4, y: 7.7 }), 255);
    expect(pixels(mask)).toEqual(those((x, y) => x > 2 && x < 10 && y > 3 && y < 8));
  });

  it("are ellipses inside a box", () => {
    const mask = blank();
    paintEllipse(mask, SIZE, { left: 2, top: 4, right: 12, bottom: 10 }, 255);
    expect(pixels(mask)).toEqual(those((x, y) => ((x - 7) / 5) ** 2 + ((y - 7) / 3) ** 2 <= 1));
  });

  it("are polygons by the even-odd rule", () => {
    const square = [{ x: 2, y: 2 }, { x: 10, y: 2 }, { x: 10, y: 10 }, { x: 2, y: 10 }];
    const mask = blank();
    paintPolygon(mask, SIZE, square, 255);
    expect(pixels(mask)).toEqual(those((x, y) => x > 2 && x < 10 && y > 2 && y < 10));
    const twice = blank();
    paintPolygon(twice, SIZE, [...square, ...square], 255);
    expect(isEmpty(twice)).toBe(true);
  });

  it("have corners twice without harm, as a double click gives them", () => {
    const corners = [{ x: 8, y: 1 }, { x: 14, y: 13 }, { x: 2, y: 13 }];
    const [once, doubled] = [blank(), blank()];
    paintPolygon(once, SIZE, corners, 255);
    paintPolygon(doubled, SIZE, [...corners, corners[2]!], 255);
    expect(pixels(doubled)).toEqual(pixels(once));
    expect(isInside({ x: 8, y: 7 }, corners)).toBe(true);
    expect(isInside({ x: 1, y: 1 }, corners)).toBe(false);
  });
});

describe("a mask", () => {
  it("is inverted pixel by pixel, and back", () => {
    const mask = blank();
    paintBox(mask, SIZE, { left: 1, top: 2, right: 5, bottom: 6 }, 255);
    mask[40] = 100;
    expect(invert(mask)[40]).toBe(155);
    expect(invert(invert(mask))).toEqual(mask);
    expect(pixels(invert(mask)).length + pixels(mask).length).toBe(SIZE * SIZE);
  });

  it("has bounds, and may be moved as far as they stay inside", () => {
    const mask = blank();
    paintBox(mask, SIZE, { left: 3, top: 4, right: 7, bottom: 9 }, 255);
    const bounds = boundsOf(mask, SIZE);
    expect(bounds).toEqual({ left: 3, top: 4, right: 7, bottom: 9 });
    expect(shiftWithin(bounds, SIZE, 100, -100)).toEqual({ right: 9, down: -4 });
    expect(shiftWithin(bounds, SIZE, 1.4, 1.6)).toEqual({ right: 1, down: 2 });
    expect(boundsOf(blank(), SIZE)).toEqual({ left: 0, top: 0, right: SIZE, bottom: SIZE });
  });

  it("has an outline around it alone", () => {
    const mask = blank();
    paintBox(mask, SIZE, { left: 2, top: 2, right: 4, bottom: 5 }, 255);
    const view = { scale: 10, left: 5, top: 0 };
    const lines = outlineOf(mask, SIZE, view, { right: 1, down: 0 }, 400, 400);
    expect(lines.length).toBe(2 * (2 + 3));
    const [xs, ys] = [lines.flatMap((line) => [line[0], line[2]]), lines.flatMap((line) => [line[1], line[3]])];
    expect([Math.min(...xs), Math.max(...xs)]).toEqual([5 + 30, 5 + 50]);
    expect([Math.min(...ys), Math.max(...ys)]).toEqual([20, 50]);
  });
});

describe("a view", () => {
  it("shows the whole image in the middle, with pixels of one size", () => {
    expect(fittingView(64, 500, 330)).toEqual({ scale: 5, left: 90, top: 5 });
    expect(fittingView(1024, 512, 800)).toEqual({ scale: 0.5, left: 0, top: 144 });
  });

  it("keeps the point under the mouse where it is", () => {
    let view = fittingView(64, 500, 330);
    const at = { x: 20.25, y: 30.5 };
    const screen = [view.left + at.x * view.scale, view.top + at.y * view.scale] as const;
    for (const factor of [1.25, 1.25, 0.8, 1.25, 0.8]) {
      view = zoomAt(view, factor, at, 2);
      const seen = toImage(view, ...screen);
      expect(seen.x).toBeCloseTo(at.x);
      expect(seen.y).toBeCloseTo(at.y);
    }
  });

  it("is never smaller or larger than it may be", () => {
    const view = { scale: 3, left: 0, top: 0 };
    expect(zoomAt(view, 1e-9, { x: 0, y: 0 }, 2).scale).toBe(2);
    expect(zoomAt(view, 1e9, { x: 0, y: 0 }, 2).scale).toBe(64);
    expect(zoomAt({ ...view, scale: 2 }, 1.05, { x: 0, y: 0 }, 1).scale).toBe(3);
  });
});
