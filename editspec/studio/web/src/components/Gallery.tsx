// Images without end: only the rows in sight are elements. One stop of the tabulator; arrows go from image to image.

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { imageAddress } from "../api";
import { chooseImage } from "../places";
import { compared, edit as chosenEdit, enlarged, focusedImage, say, state, stream, type Compared, type Stream } from "../store";
import { Icon, Segments } from "./controls";

const GAP = 6;
const LINE = 18;

/** The sides of a picture: a small one on wide screens, which show more of them. */
const [CELL, SMALL_CELL, WIDE_SCREEN] = [128, 96, 1500];

/** Rows beyond the last one that was seen. */
const AHEAD = 200;

export function GalleryPanel(): JSX.Element {
  const jump = (latent: number) => {
    if (Number.isSafeInteger(latent) && latent >= 0) focusedImage.value = latent;
  };
  return (
    <section class="panel gallery-panel" aria-label="Gallery">
      <header class="panel-title gallery-head">
        <Segments<Stream>
          name="stream" label="Which images" chosen={stream.value} choose={(value) => (stream.value = value)}
          choices={[{ value: "gallery", words: "Gallery", title: "Gallery" }, { value: "fresh", words: "Fresh samples", title: "Fresh samples" }]}
        />
        {state.value.results && (
          <Segments<Compared>
            name="view" label="Before or after the edits" chosen={compared.value} choose={(value) => (compared.value = value)}
            choices={[
              { value: "before", words: "Before", title: "Before" },
              { value: "both", words: "Before | after", title: "Before | after" },
              { value: "after", words: "After", title: "After" },
            ]}
          />
        )}
        <span class="spring" />
        <label class="jump">
          Go to
          <input
            type="number" min="0" class="number" aria-label="Go to the image with this number"
            onChange={(event) => jump(Number(event.currentTarget.value))}
          />
        </label>
      </header>
      <Gallery />
    </section>
  );
}

/** The picture of an image: by the model, or by the edited model. */
interface Picture {
  isAfter: boolean;
  address: string;
}

export function picturesOf(latent: number, of: Stream, wanted: Compared): Picture[] {
  const { model, results } = state.value;
  const seed = of === "fresh" ? model.fresh_seed : model.seed;
  const before = { isAfter: false, address: imageAddress(model.name, seed, latent) };
  if (!results || wanted === "before") return [before];
  const after = { isAfter: true, address: imageAddress(results.after, seed, latent) };
  return wanted === "after" ? [after] : [before, after];
}

function marksOf(latent: number): string[] {
  const edit = chosenEdit.value;
  if (stream.value === "fresh" || !edit) return [];
  const marks = [];
  if (edit.source?.latent === latent) marks.push("Copy");
  if (edit.target?.latent === latent) marks.push("Paste");
  if (edit.context.some((place) => place.latent === latent)) marks.push("Context");
  return marks;
}

interface Layout {
  cell: number;
  columns: number;
  height: number;
}

function Gallery(): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const [layout, setLayout] = useState<Layout>({ cell: CELL, columns: 1, height: 0 });
  const [top, setTop] = useState(0);
  const [known, setKnown] = useState(AHEAD);
  const pictures = picturesOf(0, stream.value, compared.value).length;
  useLayoutEffect(() => {
    const measure = () => setLayout(layOut(box.current!, pictures));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, [pictures]);
  const row = layout.cell + LINE + GAP;
  const current = focusedImage.value;
  const rowOfCurrent = Math.floor(current / layout.columns);
  // The image that is asked for comes into sight.
  useEffect(() => {
    const { scrollTop, clientHeight } = box.current!;
    const [begin, end] = [rowOfCurrent * row, rowOfCurrent * row + layout.cell + LINE];
    if (rowOfCurrent > known - 50) setKnown(rowOfCurrent + AHEAD);
    if (begin < scrollTop) box.current!.scrollTop = begin;
    if (end > scrollTop + clientHeight) box.current!.scrollTop = end + GAP - clientHeight;
    if (box.current!.contains(document.activeElement)) tileOf(box.current!, current)?.focus({ preventScroll: true });
  }, [current, row, layout.columns, known]);
  const first = Math.max(0, Math.floor(top / row) - 1);
  const last = Math.ceil((top + layout.height) / row) + 1;
  const shown = layout.height ? Array.from({ length: last - first + 1 }, (_, index) => first + index) : [];
  const scrolled = () => {
    setTop(box.current!.scrollTop);
    if (last > known - 50) setKnown(last + AHEAD);
  };
  return (
    <div
      ref={box} class={`gallery ${layout.cell === CELL ? "" : "small"}`} role="listbox" aria-label="Images of the model"
      onScroll={scrolled} onKeyDown={(event) => press(event, layout, box.current!)}
    >
      <div class="gallery-inner" role="presentation" style={{ height: `${known * row}px` }}>
        {shown.map((each) => (
          <div key={each} class="gallery-row" role="presentation" style={{ top: `${each * row}px` }}>
            {Array.from({ length: layout.columns }, (_, column) => {
              const latent = each * layout.columns + column;
              const isCurrent = latent === current || (each === first && column === 0 && !shown.includes(rowOfCurrent));
              return <Tile key={latent} latent={latent} cell={layout.cell} isCurrent={isCurrent} />;
            })}
          </div>
        ))}
      </div>
    </div>
  );
}

function layOut(box: HTMLElement, pictures: number): Layout {
  const cell = innerWidth >= WIDE_SCREEN ? SMALL_CELL : CELL;
  const wide = (cell + 2) * pictures - 2 + GAP;
  return { cell, columns: Math.max(1, Math.floor((box.clientWidth - 2) / wide)), height: box.clientHeight };
}

function tileOf(box: HTMLElement, latent: number): HTMLElement | null {
  return box.querySelector(`[data-latent="${latent}"]`);
}

function press(event: KeyboardEvent, { columns, cell, height }: Layout, box: HTMLElement): void {
  const current = Number((event.target as HTMLElement).dataset["latent"] ?? focusedImage.value);
  const page = columns * Math.max(1, Math.floor(height / (cell + LINE + GAP)));
  const steps: Record<string, number> = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page, Home: -current,
  };
  const step = steps[event.key];
  if (step !== undefined) {
    focusedImage.value = Math.max(0, current + step);
    tileOf(box, focusedImage.value)?.focus({ preventScroll: true });
  } else if (event.key === "Enter" || event.key === " ") chooseImage(current);
  else if (event.key === "v") enlarged.value = current;
  else return;
  event.preventDefault();
}

function Tile({ latent, cell, isCurrent }: { latent: number; cell: number; isCurrent: boolean }): JSX.Element {
  const marks = marksOf(latent);
  const choose = () => {
    focusedImage.value = latent;
    chooseImage(latent);
  };
  const lookAt = () => {
    focusedImage.value = latent;
    say("Images after the edits are looked at: a double click enlarges one. Those before can be chosen.");
  };
  return (
    <div class="tile" role="option" aria-selected={marks.length > 0} data-latent={latent} tabIndex={isCurrent ? 0 : -1}>
      <span class="tile-images">
        {picturesOf(latent, stream.value, compared.value).map(({ isAfter, address }) => (
          <img
            key={address} src={address} alt="" width={cell} height={cell} class={isAfter ? "after" : "before"}
            title={isAfter ? "After: a double click enlarges it" : ""}
            onClick={isAfter ? lookAt : choose} onDblClick={() => (isAfter || stream.value === "fresh") && (enlarged.value = latent)}
          />
        ))}
        {/* For the mouse alone: the keyboard has V, and an option has nothing that can be pressed inside. */}
        <span class="tile-look" aria-hidden="true" title="Look at it (V)" onClick={() => (enlarged.value = latent)}>
          <Icon name="fit" />
        </span>
      </span>
      <span class="tile-line">
        <span class="tile-number"><span class="unseen">Image </span>{latent}</span>
        {marks.map((mark) => <span key={mark} class={`mark mark-${mark.toLowerCase()}`}>{mark}</span>)}
      </span>
    </div>
  );
}
