// One image, as large as the screen allows: before and after by a wipe, in turn, or as their difference.

import type { JSX, TargetedPointerEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { enlarged, focusedImage, state, stream } from "../store";
import { IconButton, Segments, short } from "./controls";
import { picturesOf } from "./Gallery";

type Comparison = "wipe" | "blink" | "difference";
type Size = "fit" | "1" | "2" | "4" | "8";

const BLINK_MILLISECONDS = 700;

/** How many times as strong differences are shown as they are. */
const STRONGER = 4;

const COMPARISONS: { value: Comparison; words: string; title: string }[] = [
  { value: "wipe", words: "Wipe", title: "Wipe (W)" },
  { value: "blink", words: "Blink", title: "Blink (B)" },
  { value: "difference", words: "Difference", title: "Difference (D)" },
];
const SIZES: { value: Size; words: string; title: string }[] = [
  { value: "fit", words: "Fit", title: "As large as the screen (0)" },
  ...(["1", "2", "4", "8"] as const).map((value) => ({ value, words: `${value}×`, title: `${value} times the pixels (${value})` })),
];

export function Lightbox(): JSX.Element | null {
  return enlarged.value === null ? null : <Open latent={enlarged.value} />;
}

function Open({ latent }: { latent: number }): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const [comparison, setComparison] = useState<Comparison>("wipe");
  const [size, setSize] = useState<Size>("fit");
  useEffect(() => dialog.current!.showModal(), []);
  const [before, after] = picturesOf(latent, stream.value, "both");
  const go = (step: number) => {
    enlarged.value = focusedImage.value = Math.max(0, latent + step);
  };
  const key = (event: KeyboardEvent) => {
    // A slider moves itself, and so does the frame of a picture that is larger than it.
    const isMoved = event.target instanceof Element && event.target.matches("input, .lightbox-frame");
    const found = COMPARISONS.find(({ value }) => value[0] === event.key);
    const sized = SIZES.find(({ value }) => value === event.key);
    if (event.key === "ArrowLeft" && !isMoved) go(-1);
    else if (event.key === "ArrowRight" && !isMoved) go(1);
    else if (event.key === "PageUp" || event.key === "PageDown") go(event.key === "PageUp" ? -1 : 1);
    else if (event.key === "0") setSize("fit");
    else if (found) setComparison(found.value);
    else if (sized) setSize(sized.value);
    else return;
    event.preventDefault();
  };
  // On the window: the button that had the focus may be gone with the comparison that it belonged to.
  useEffect(() => {
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  });
  return (
    <dialog ref={dialog} class="lightbox" aria-label={`Image ${latent}`} onClose={() => (enlarged.value = null)}>
      <header class="lightbox-head">
        <IconButton icon="left" label="The image before (←)" disabled={latent === 0} onClick={() => go(-1)} />
        <strong>{stream.value === "fresh" ? "Sample" : "Image"} {latent}</strong>
        <IconButton icon="right" label="The next image (→)" onClick={() => go(1)} />
        <span class="spring" />
        {after && (
          <Segments name="comparison" label="How before and after are compared" chosen={comparison} choose={setComparison} choices={COMPARISONS} />
        )}
        <Segments name="size" label="Size" chosen={size} choose={setSize} choices={SIZES} />
        <IconButton icon="remove" label="Close (Escape)" onClick={() => dialog.current!.close()} />
      </header>
      <div class="lightbox-body">
        {after
          ? <Compared before={before!.address} after={after.address} comparison={comparison} size={size} />
          : <Framed size={size}><Picture address={before!.address} /></Framed>}
      </div>
      {!after && <p class="hint">Execute, and before and after are compared here.</p>}
    </dialog>
  );
}

interface ComparedProperties {
  before: string;
  after: string;
  comparison: Comparison;
  size: Size;
}

function Compared({ before, after, comparison, size }: ComparedProperties): JSX.Element {
  if (comparison === "wipe") return <Wipe before={before} after={after} size={size} />;
  if (comparison === "blink") return <Blink before={before} after={after} size={size} />;
  return <Difference before={before} after={after} size={size} />;
}

function Framed({ size, children }: { size: Size; children: JSX.Element | JSX.Element[] }): JSX.Element {
  const [pixels, setPixels] = useState(0);
  const frame = useRef<HTMLDivElement>(null);
  const { image_size } = state.value.model;
  useEffect(() => {
    const element = frame.current;
    if (!element) return;
    const measure = () => {
      const room = Math.min(element.clientWidth, element.clientHeight);
      const whole = Math.floor(room / image_size) * image_size;
      setPixels(size === "fit" ? whole || room : image_size * Number(size));
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, [size, image_size]);
  return (
    <div ref={frame} class={`lightbox-frame ${size === "fit" ? "is-fit" : ""}`} role="group" aria-label="Picture" tabIndex={size === "fit" ? undefined : 0}>
      <div class="lightbox-picture" data-pixels={pixels} style={{ width: `${pixels}px`, height: `${pixels}px` }}>{children}</div>
    </div>
  );
}

function Picture({ address, words = "" }: { address: string; words?: string }): JSX.Element {
  return <img src={address} alt={words} draggable={false} />;
}

/** Before on the left of a line, after on the right of it. */
function Wipe({ before, after, size }: { before: string; after: string; size: Size }): JSX.Element {
  const [share, setShare] = useState(50);
  const drag = (event: TargetedPointerEvent<HTMLDivElement>) => {
    if (event.type === "pointermove" && event.buttons === 0) return;
    const { left, width } = event.currentTarget.getBoundingClientRect();
    setShare(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - left)) / width))));
  };
  return (
    <>
      <Framed size={size}>
        <div class="wipe" onPointerDown={drag} onPointerMove={drag}>
          <Picture address={after} words="After" />
          <img src={before} alt="Before" draggable={false} class="wipe-before" style={{ clipPath: `inset(0 ${100 - share}% 0 0)` }} />
          <span class="wipe-line" style={{ left: `${share}%` }} />
        </div>
      </Framed>
      <label class="wipe-slider">
        <span>before</span>
        <input
          type="range" min="0" max="100" value={share} aria-label="Where after begins, in percent"
          onInput={(event) => setShare(Number(event.currentTarget.value))}
        />
        <span>after</span>
      </label>
    </>
  );
}

/** Before and after in turn; the space bar stops and goes on. */
function Blink({ before, after, size }: { before: string; after: string; size: Size }): JSX.Element {
  const [isAfter, setAfter] = useState(false);
  const [isRunning, setRunning] = useState(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  useEffect(() => {
    if (!isRunning) return;
    const timer = setInterval(() => setAfter((shown) => !shown), BLINK_MILLISECONDS);
    return () => clearInterval(timer);
  }, [isRunning]);
  return (
    <>
      <Framed size={size}>
        <Picture address={isAfter ? after : before} words={isAfter ? "After" : "Before"} />
        <span class="blink-word">{isAfter ? "after" : "before"}</span>
      </Framed>
      <div class="lightbox-acts">
        <button type="button" aria-pressed={isRunning} onClick={() => setRunning(!isRunning)}>{isRunning ? "Stop" : "Blink"}</button>
        <button
          type="button"
          onClick={() => {
            setRunning(false);
            setAfter(!isAfter);
          }}
        >
          Show {isAfter ? "before" : "after"}
        </button>
      </div>
    </>
  );
}

function Difference({ before, after, size }: { before: string; after: string; size: Size }): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [mean, setMean] = useState<number | null>(null);
  const side = state.value.model.image_size;
  useEffect(() => {
    let isOver = false;
    void Promise.all([before, after].map((address) => pixelsOf(address, side))).then(([first, second]) => {
      if (isOver || !canvas.current) return;
      const { pixels, sum } = differ(first!, second!);
      canvas.current.getContext("2d")!.putImageData(pixels, 0, 0);
      setMean(sum / (side * side * 3 * 255));
    });
    return () => {
      isOver = true;
    };
  }, [before, after, side]);
  return (
    <>
      <Framed size={size}>
        <canvas ref={canvas} width={side} height={side} role="img" aria-label="The difference of before and after" />
      </Framed>
      <p class="hint" role="status">
        {mean === null ? "" : `On average a pixel changes by ${short(100 * mean, 2)} %. It is shown ${STRONGER} times as strong.`}
      </p>
    </>
  );
}

async function pixelsOf(address: string, side: number): Promise<ImageData> {
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d")!;
  context.drawImage(image, 0, 0, side, side);
  return context.getImageData(0, 0, side, side);
}

/** How much two pictures differ, made stronger, and the sum of what it is as it is. */
function differ(before: ImageData, after: ImageData): { pixels: ImageData; sum: number } {
  const pixels = new ImageData(before.width, before.height);
  let sum = 0;
  before.data.forEach((value, index) => {
    if (index % 4 === 3) {
      pixels.data[index] = 255;
      return;
    }
    const change = Math.abs(value - after.data[index]!);
    sum += change;
    pixels.data[index] = STRONGER * change;
  });
  return { pixels, sum };
}
