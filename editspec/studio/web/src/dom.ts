// Elements, icons, and panels that are drawn anew without losing the focus.

type Child = Node | string | null | false | undefined;
type Properties = Record<string, unknown>;

/** An element with attributes, listeners (`onclick`), properties (`.value`) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Properties = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  apply(element, properties);
  element.append(...children.filter((child): child is Node | string => child instanceof Node || Boolean(child)));
  return element;
}

export function svg(tag: string, properties: Properties = {}, ...children: Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  apply(element, properties);
  element.append(...children.filter((child): child is Node | string => child instanceof Node || Boolean(child)));
  return element;
}

function apply(element: Element, properties: Properties): void {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value as EventListener);
    else if (name.startsWith(".")) Object.assign(element, { [name.slice(1)]: value });
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
}

/** Put new children into a panel; what had the focus (by its `data-key`) has it again. */
export function redraw(panel: Element, ...children: Child[]): void {
  const active = document.activeElement;
  const key = panel.contains(active) ? active?.getAttribute("data-key") : null;
  panel.replaceChildren(...children.filter((child): child is Node | string => child instanceof Node || Boolean(child)));
  if (key) panel.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

const PATHS: Record<string, string> = {
  brush: "M13.5 2.5 7 9M5.5 9.5c-2 0-2.5 1.5-2.5 4 2.5 0 4-.5 4-2.5z",
  eraser: "M6 13.5h7.5M3 10.5l6.5-7.5 4 3.5-6 7h-2z",
  box: "M3 3.5h10v9H3z",
  ellipse: "M8 3.5c3 0 5 2 5 4.5s-2 4.5-5 4.5-5-2-5-4.5 2-4.5 5-4.5z",
  polygon: "M8 2.5 13.5 7 11 13.5H4.5L2.5 6.5z",
  move: "M8 2v12M2 8h12M8 2 6.5 3.5M8 2l1.5 1.5M8 14l-1.5-1.5M8 14l1.5-1.5M2 8l1.5-1.5M2 8l1.5 1.5M14 8l-1.5-1.5M14 8l-1.5 1.5",
  hand: "M5 8V4.5a1 1 0 0 1 2 0V7 3.5a1 1 0 0 1 2 0V7 4.5a1 1 0 0 1 2 0V9c0 3-1.5 4.5-3.5 4.5S5 12.5 3.5 9.5a1 1 0 0 1 1.5-1z",
  undo: "M6 3 3 6l3 3M3 6h6.5a3.5 3.5 0 0 1 0 7H7",
  redo: "M10 3l3 3-3 3M13 6H6.5a3.5 3.5 0 0 0 0 7H9",
  up: "M8 12.5v-9M4.5 7 8 3.5 11.5 7",
  down: "M8 3.5v9M4.5 9 8 12.5 11.5 9",
  remove: "M4 4l8 8M12 4l-8 8",
  plus: "M8 3.5v9M3.5 8h9",
  minus: "M3.5 8h9",
  fit: "M3 6V3h3M13 6V3h-3M3 10v3h3M13 10v3h-3",
  search: "M7 3a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM10 10l3.5 3.5",
  heat: "M8 13.5c-2.5 0-4-1.5-4-4C4 7 7 6 7 2.5c3 1.5 5 4 5 7 0 2.5-1.5 4-4 4z",
  check: "M3.5 8.5l3 3 6-7",
};

export function icon(name: string): SVGElement {
  return svg(
    "svg",
    { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" },
    svg("path", { d: PATHS[name] ?? "" }),
  );
}

/** A button with an icon alone; its label is what a screen reader and the tooltip say. */
export function iconButton(name: string, label: string, properties: Properties = {}): HTMLButtonElement {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...properties }, icon(name));
}

/** A number to a few digits, as short as it goes. */
export function short(value: number, digits = 3): string {
  return value === 0 ? "0" : String(Number(value.toPrecision(digits)));
}
