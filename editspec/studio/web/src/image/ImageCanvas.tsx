// The canvas of images: tools, the picture of the present step, and the strip of the context.

import { computed, effect, signal, useSignalEffect } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { picture } from "../api";
import { IconButton } from "../components/controls";
import { pasteAt, putMask, removePlace } from "../places";
import { canEdit, edit, entry, heat, isPasting, latent, mode, number, pending, place, say, spoken, state } from "../store";
import { hintWords } from "../words";
import type { Mask } from "./geometry";
import { floatingMask, loadScene, masks, shownMask, type Loads } from "./loads";
import { Painter, type Tool } from "./painter";
import { Strip } from "./Strip";

const COLOURS = { copy: "#2f7df6", paste: "#e0751a", context: "#1f9d55" };

const TOOLS: { tool: Tool; words: string; key: string }[] = [
  { tool: "brush", words: "Brush", key: "b" },
  { tool: "eraser", words: "Eraser", key: "e" },
  { tool: "box", words: "Box", key: "r" },
  { tool: "ellipse", words: "Ellipse", key: "o" },
  { tool: "polygon", words: "Polygon", key: "p" },
  { tool: "move", words: "Move what is pasted", key: "m" },
  { tool: "hand", words: "Pan", key: "h" },
];

const tool = signal<Tool>("brush");
const radius = signal(2.5);
const copiedMask = signal<Mask | null>(null);
/** Where what is pasted is held by the mouse; null while it is not. */
const held = signal<{ right: number; down: number } | null>(null);

let painter: Painter | null = null;

// -- what the canvas shows ----------------------------------------------------------------------------------------------

/** Where the gestures happen: corners and strokes that were begun elsewhere are given up. */
const scene = computed(() => `${mode.value} ${edit.value?.id} ${latent.value} ${entry.value} ${state.value.model.name}`);

function attach(element: HTMLCanvasElement): () => void {
  const size = state.peek().model.image_size;
  const made = new Painter(element, size, { painted, moved, said: (words) => (spoken.value = words) });
  const loads = loadScene();
  painter = made;
  const ends = [
    effect(() => {
      scene.value;
      made.abandon();
    }),
    effect(() => {
      // What cannot be changed can be moved in sight.
      made.tool = canEdit.value ? tool.value : "hand";
      element.dataset["tool"] = made.tool;
    }),
    effect(() => {
      made.radius = radius.value;
      made.colour = COLOURS[mode.value];
    }),
    effect(() => {
      const next = loads.picture.value.value;
      if (held.value === null) made.show(next);
    }),
    effect(() => made.showHeat(loads.heat.value.value)),
    effect(() => showMask(made, element, loads)),
    effect(() => {
      const pasted = floatingMask(loads);
      if (held.value === null) made.float(pasted);
    }),
    loads.end,
  ];
  return () => {
    ends.forEach((end) => end());
    painter = null;
  };
}

/** Show the mask of the spec, but not while one is painted or on its way to the spec. */
function showMask(made: Painter, element: HTMLCanvasElement, loads: Loads): void {
  const [at, shown] = [scene.value, shownMask(loads)];
  if (pending.value > 0 || !shown || made.isHeld) return;
  const key = `${at} ${shown.digest}`;
  if (element.dataset["shown"] === key) return;
  element.dataset["shown"] = key;
  element.dataset["mask"] = shown.digest;
  made.showMask(shown.mask);
}

// -- gestures -----------------------------------------------------------------------------------------------------------

function painted(): void {
  if (!painter) return;
  if (!edit.value || latent.value === null || !canEdit.value) {
    painter.showMask(null);
    return;
  }
  if (painter.isEmpty) {
    removePlace();
    return;
  }
  const mask = painter.mask.slice();
  putMask(painter.maskAddress(), (written) => {
    // What was painted is what the spec has now: it need not be read back.
    if (written?.mask) masks.set(written.mask, mask);
  });
}

function moved(right: number, down: number, isHeld: boolean): void {
  const image = latent.value;
  if (image === null) return;
  held.value = isHeld ? { right, down } : null;
  if (isHeld) void compose();
  else pasteAt(image, right, down);
}

let composing = false;

/** Have the model draw what is held where it is now; one request at a time, the newest place next. */
async function compose(): Promise<void> {
  if (composing) return;
  composing = true;
  let drawn = null;
  while (held.value && drawn !== held.value && latent.value !== null) {
    drawn = held.value;
    const image = await picture("POST", `edits/${number.value}/composite`, { latent: latent.value, ...drawn }).catch(() => null);
    if (image && held.value) painter?.show(image);
  }
  composing = false;
}

function copyMask(): void {
  if (!painter || painter.isEmpty) return;
  copiedMask.value = painter.mask.slice();
  say("The mask is copied: put it on another image.");
}

function putCopiedMask(): void {
  if (painter && copiedMask.value && latent.value !== null && canEdit.value) painter.change(copiedMask.value);
}

function canMove(): boolean {
  return mode.value === "paste";
}

/** Keys of the tools; true where one was pressed. */
export function pressImageKey(event: KeyboardEvent): boolean {
  const isCommand = event.ctrlKey || event.metaKey;
  const isOnCanvas = event.target === painter?.element;
  if (isCommand && isOnCanvas && event.key === "c") copyMask();
  else if (isCommand && isOnCanvas && event.key === "v") putCopiedMask();
  else if (isCommand || event.altKey) return false;
  else if (event.key === "i") invert();
  else if (event.key === "[" || event.key === "]") radius.value = Math.max(0.5, radius.value + (event.key === "]" ? 0.5 : -0.5));
  else if (event.key === "+" || event.key === "=") painter?.zoom(1.25);
  else if (event.key === "-") painter?.zoom(0.8);
  else if (event.key === "0") painter?.fitWhole();
  else {
    const found = TOOLS.find(({ key }) => key === event.key);
    if (!found || (found.tool === "move" && !canMove())) return false;
    tool.value = found.tool;
  }
  return true;
}

function invert(): void {
  if (latent.value !== null && !isPasting.value && canEdit.value) painter?.invert();
}

// -- components ---------------------------------------------------------------------------------------------------------

export function ImageCanvas(): JSX.Element {
  const element = useRef<HTMLCanvasElement>(null);
  useEffect(() => attach(element.current!), [state.value.model.image_size]);
  useSignalEffect(() => {
    if (isPasting.value && edit.value?.source) tool.value = "move";
    else if (tool.peek() === "move") tool.value = "brush";
  });
  const [at, of] = [latent.value, edit.value];
  const label = at === null ? "No image yet" : `${mode.value}, image ${at}`;
  return (
    <>
      <p class="hint stage-hint" id="stage-hint">{hintWords(of, mode.value, at)}</p>
      <div class="bench">
        <Tools />
        <div class="easel">
          <canvas
            ref={element} class={`canvas ${at === null && !place.value ? "empty" : ""}`} tabIndex={0} role="application"
            aria-roledescription="painting" aria-label={label} aria-describedby="stage-hint"
          />
          {heat.value && mode.value === "context" && <HeatLegend />}
        </div>
      </div>
      {mode.value === "context" && of && <Strip />}
    </>
  );
}

function Tools(): JSX.Element {
  const usable = TOOLS.filter(({ tool: each }) => each !== "move" || canMove());
  const canPaint = latent.value !== null && !isPasting.value && canEdit.value;
  return (
    <div class="tools" role="toolbar" aria-label="Tools" aria-orientation="vertical">
      {usable.map(({ tool: each, words, key }) => (
        <IconButton
          key={each} icon={each} label={`${words} (${key.toUpperCase()})`} aria-pressed={each === tool.value} disabled={each !== "hand" && !canEdit.value}
          onClick={() => (tool.value = each)}
        />
      ))}
      <hr />
      <label class="size" title="Size of the brush ([ and ]). Alt erases.">
        <span class="unseen">Size of the brush</span>
        <input
          type="range" min="0.5" max={Math.max(8, state.value.model.image_size / 8)} step="0.5" value={radius.value}
          onInput={(event) => (radius.value = Number(event.currentTarget.value))}
        />
      </label>
      <hr />
      <IconButton icon="plus" label="Zoom in (+)" onClick={() => painter?.zoom(1.25)} />
      <IconButton icon="minus" label="Zoom out (-)" onClick={() => painter?.zoom(0.8)} />
      <IconButton icon="fit" label="Show the whole image (0)" onClick={() => painter?.fitWhole()} />
      <hr />
      <IconButton icon="invert" label="Invert the mask (I)" disabled={!canPaint} onClick={invert} />
      <IconButton icon="copy" label="Copy the mask (Ctrl+C)" disabled={!canPaint || !place.value} onClick={copyMask} />
      <IconButton
        icon="paste" label="Put the copied mask here (Ctrl+V)" disabled={!canPaint || !copiedMask.value} onClick={putCopiedMask}
      />
      <IconButton icon="remove" label="Clear the mask" disabled={!place.value || !canEdit.value} onClick={removePlace} />
    </div>
  );
}

function HeatLegend(): JSX.Element {
  return (
    <div class="legend" role="img" aria-label="Heat map: dark where the key does not respond, bright where it responds as in the context">
      <span>no response</span>
      <span class="legend-bar" />
      <span>as in the context</span>
    </div>
  );
}
