// The picture of a painter's state on its canvas.

import { outlineOf, type Mask, type Point, type View } from "./geometry";
import type { Floating } from "./painter";

export interface Scene {
  size: number;
  view: View;
  colour: string;
  image: ImageBitmap | null;
  heat: HTMLCanvasElement | null;
  mask: Mask;
  pasted: Floating | null;
  corners: Point[];
  cursor: Point | null;
  /** The radius of the brush, where one is in the hand. */
  brush: number | null;
  /** Whether a cross marks the cursor of the keyboard. */
  cross: boolean;
}

type Pen = CanvasRenderingContext2D;

const NOWHERE = { right: 0, down: 0 };

export function drawScene(element: HTMLCanvasElement, scene: Scene): void {
  const pen = element.getContext("2d");
  if (!pen) return;
  const { view, size } = scene;
  pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  pen.clearRect(0, 0, element.clientWidth, element.clientHeight);
  pen.imageSmoothingEnabled = false;
  const side = size * view.scale;
  for (const layer of [scene.image, scene.heat]) {
    if (layer) pen.drawImage(layer, view.left, view.top, side, side);
  }
  drawMask(pen, scene, scene.mask, NOWHERE);
  if (scene.pasted) drawMask(pen, scene, scene.pasted.mask, scene.pasted);
  drawCorners(pen, scene);
  drawCursor(pen, scene);
}

/** Draw a mask as a tint with an outline along the edges of its pixels. */
function drawMask(pen: Pen, scene: Scene, mask: Mask, shift: { right: number; down: number }): void {
  const { view, size } = scene;
  const side = size * view.scale;
  pen.save();
  pen.beginPath();
  pen.rect(view.left, view.top, side, side);
  pen.clip();
  const [left, top] = [view.left + shift.right * view.scale, view.top + shift.down * view.scale];
  pen.drawImage(tinted(mask, size, scene.colour, opacityOf(scene)), left, top, side, side);
  if (view.scale >= 2) {
    const { clientWidth, clientHeight } = pen.canvas;
    const outline = new Path2D();
    for (const [x1, y1, x2, y2] of outlineOf(mask, size, view, shift, clientWidth, clientHeight)) {
      outline.moveTo(x1, y1);
      outline.lineTo(x2, y2);
    }
    strokeTwice(pen, outline, "rgb(255 255 255 / 0.9)", 3, scene.colour, 1.5);
  }
  pen.restore();
}

function opacityOf(scene: Scene): number {
  if (scene.heat) return 0;
  return scene.pasted ? 0.12 : 0.4;
}

/** A canvas with a colour where a mask is. */
function tinted(mask: Mask, size: number, colour: string, opacity: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d")!;
  const pixels = context.createImageData(size, size);
  const channels = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  mask.forEach((value, index) => {
    if (value) pixels.data.set([...channels, value * opacity], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function drawCorners(pen: Pen, { corners, cursor, view, colour }: Scene): void {
  if (corners.length === 0) return;
  const place = (point: Point) => [view.left + point.x * view.scale, view.top + point.y * view.scale] as const;
  const path = new Path2D();
  corners.forEach((corner) => path.lineTo(...place(corner)));
  if (cursor) path.lineTo(...place({ x: cursor.x + 0.5, y: cursor.y + 0.5 }));
  // The first corner closes the polygon.
  const [x, y] = place(corners[0]!);
  path.moveTo(x + 4, y);
  path.arc(x, y, 4, 0, 7);
  strokeTwice(pen, path, "rgb(255 255 255 / 0.9)", 3, colour, 1.5);
}

function drawCursor(pen: Pen, { cursor, view, brush, cross }: Scene): void {
  if (!cursor) return;
  const path = new Path2D();
  const place = (x: number, y: number) => [view.left + x * view.scale, view.top + y * view.scale] as const;
  if (brush !== null) {
    path.arc(...place(cursor.x + 0.5, cursor.y + 0.5), Math.max(brush, 0.71) * view.scale, 0, 7);
  } else if (cross) {
    const [x, y] = place(cursor.x, cursor.y);
    path.moveTo(x - 8, y);
    path.lineTo(x + 8, y);
    path.moveTo(x, y - 8);
    path.lineTo(x, y + 8);
  }
  strokeTwice(pen, path, "rgb(255 255 255 / 0.95)", 2.5, "rgb(0 0 0 / 0.75)", 1);
}

/** Stroke a path so that it is seen on any ground. */
function strokeTwice(pen: Pen, path: Path2D, under: string, wide: number, over: string, narrow: number): void {
  pen.strokeStyle = under;
  pen.lineWidth = wide;
  pen.stroke(path);
  pen.strokeStyle = over;
  pen.lineWidth = narrow;
  pen.stroke(path);
}

/** The pixels of a grey image as a mask. */
export function maskOf(image: ImageBitmap, size: number): Mask {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d")!;
  context.drawImage(image, 0, 0, size, size);
  const { data } = context.getImageData(0, 0, size, size);
  return new Uint8Array(size * size).map((_, index) => data[4 * index]!);
}

/** The colour of a response of the heat map: dark where there is none, amber where the key responds. */
export function glowColour(response: number): [number, number, number, number] {
  const value = response ** 1.5;
  return [255 * value, 160 * value, 30 * (1 - value), 255 * (0.74 - 0.36 * value)];
}

/** A grey map as light. */
export function glow(map: ImageBitmap): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d")!;
  context.drawImage(map, 0, 0);
  const pixels = context.getImageData(0, 0, map.width, map.height);
  for (let index = 0; index < pixels.data.length; index += 4) {
    pixels.data.set(glowColour(pixels.data[index]! / 255), index);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
