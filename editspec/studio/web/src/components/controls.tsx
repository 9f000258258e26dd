// Icons, buttons and groups of choices.

import type { ButtonHTMLAttributes, ComponentChildren, JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { pending } from "../store";

const PATHS = {
  brush: "M13.5 2.5 7 9M5.5 9.5c-2 0-2.5 1.5-2.5 4 2.5 0 4-.5 4-2.5z",
  eraser: "M6 13.5h7.5M3 10.5l6.5-7.5 4 3.5-6 7h-2z",
  box: "M3 3.5h10v9H3z",
  ellipse: "M8 3.5c3 0 5 2 5 4.5s-2 4.5-5 4.5-5-2-5-4.5 2-4.5 5-4.5z",
  polygon: "M8 2.5 13.5 7 11 13.5H4.5L2.5 6.5z",
  move: "M8 2v12M2 8h12M8 2 6.5 3.5M8 2l1.5 1.5M8 14l-1.5-1.5M8 14l1.5-1.5M2 8l1.5-1.5M2 8l1.5 1.5M14 8l-1.5-1.5M14 8l-1.5 1.5",
  hand: "M5 8V4.5a1 1 0 0 1 2 0V7 3.5a1 1 0 0 1 2 0V7 4.5a1 1 0 0 1 2 0V9c0 3-1.5 4.5-3.5 4.5S5 12.5 3.5 9.5a1 1 0 0 1 1.5-1z",
  invert: "M8 2.5a5.5 5.5 0 0 1 0 11zM8 2.5a5.5 5.5 0 0 0 0 11",
  copy: "M6 6h7v7H6zM10 6V3H3v7h3",
  paste: "M5 3.5H3.5v10h9v-10H11M5.5 2.5h5v2.5h-5zM8 7.5v4M6 9.5h4",
  undo: "M6 3 3 6l3 3M3 6h6.5a3.5 3.5 0 0 1 0 7H7",
  redo: "M10 3l3 3-3 3M13 6H6.5a3.5 3.5 0 0 0 0 7H9",
  up: "M8 12.5v-9M4.5 7 8 3.5 11.5 7",
  down: "M8 3.5v9M4.5 9 8 12.5 11.5 9",
  left: "M10 3.5 5.5 8l4.5 4.5",
  right: "M6 3.5 10.5 8 6 12.5",
  remove: "M4 4l8 8M12 4l-8 8",
  plus: "M8 3.5v9M3.5 8h9",
  minus: "M3.5 8h9",
  fit: "M3 6V3h3M13 6V3h-3M3 10v3h3M13 10v3h-3",
  search: "M7 3a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM10 10l3.5 3.5",
  heat: "M8 13.5c-2.5 0-4-1.5-4-4C4 7 7 6 7 2.5c3 1.5 5 4 5 7 0 2.5-1.5 4-4 4z",
  check: "M3.5 8.5l3 3 6-7",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg viewBox="0 0 16 16" class="icon" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

type ButtonProperties = Omit<ButtonHTMLAttributes<HTMLButtonElement>, "icon"> & { "data-key"?: string };

/** A button with an icon alone; its label is what a screen reader and the tooltip say. */
export function IconButton(properties: ButtonProperties & { icon: IconName; label: string }): JSX.Element {
  const { icon, label, class: more, ...rest } = properties;
  return (
    <button type="button" class={`icon-button ${more ?? ""}`} aria-label={label} title={label} {...rest}>
      <Icon name={icon} />
    </button>
  );
}

/** A button of words with an icon before them. */
export function TextButton(properties: ButtonProperties & { icon: IconName; children: ComponentChildren }): JSX.Element {
  const { icon, children, ...rest } = properties;
  return (
    <button type="button" class="text-button" {...rest}>
      <Icon name={icon} />
      {children}
    </button>
  );
}

export interface Choice<T> {
  value: T;
  words: string;
  title?: string;
}

interface SegmentsProperties<T> {
  name: string;
  label: string;
  choices: readonly Choice<T>[];
  chosen: T;
  choose: (value: T) => void;
}

/** Several choices beside each other, one of which is taken. */
export function Segments<T extends string>({ name, label, choices, chosen, choose }: SegmentsProperties<T>): JSX.Element {
  return (
    <div class="segments" role="radiogroup" aria-label={label}>
      {choices.map(({ value, words, title }) => (
        <label key={value} class="segment" title={title ?? value}>
          <input
            type="radio" name={name} value={value} checked={value === chosen} aria-label={title ?? words}
            data-key={`${name}-${value}`} onChange={() => choose(value)}
          />
          <span>{words}</span>
        </label>
      ))}
    </div>
  );
}

interface Typed {
  shown: string;
  type: (text: string) => void;
  commit: () => void;
}

/** The text of a field. What is being typed stays, whatever the server says meanwhile, and what was written until it says so. */
export function useTyped(value: string, put: (text: string) => void): Typed {
  const [typed, setTyped] = useState<string | null>(null);
  const [isWritten, setWritten] = useState(false);
  const isOver = isWritten && pending.value === 0;
  useEffect(() => {
    if (!isOver) return;
    setTyped(null);
    setWritten(false);
  }, [isOver]);
  const type = (text: string) => {
    setTyped(text);
    setWritten(false);
  };
  const commit = () => {
    if (typed === null || isWritten) return;
    setWritten(true);
    if (typed !== value) put(typed);
  };
  return { shown: typed ?? value, type, commit };
}

type FieldProperties = { value: number | string; put: (given: number) => void; class?: string; "aria-label"?: string; min?: string };

/** A field for a number. */
export function NumberField({ value, put, class: more, ...rest }: FieldProperties): JSX.Element {
  const { shown, type, commit } = useTyped(String(value), (typed) => {
    if (typed && Number.isFinite(Number(typed))) put(Number(typed));
  });
  return (
    <input
      type="number" step="any" class={`number ${more ?? ""}`} value={shown} {...rest}
      onInput={(event) => type(event.currentTarget.value)} onChange={commit}
    />
  );
}

/** A number to a few digits, as short as it goes. */
export function short(value: number, digits = 3): string {
  return value === 0 ? "0" : String(Number(value.toPrecision(digits)));
}
