// The canvas of each modality: what shows the places of an edit, and the keys that it has. One line each.

import type { JSX } from "preact";
import { ImageStage, pressImageKey } from "./image/ImageStage";

interface Canvas {
  Stage: () => JSX.Element;
  /** Take a key; false where it is none of the canvas. */
  press: (event: KeyboardEvent) => boolean;
}

export const CANVASES: Record<string, Canvas> = {
  image: { Stage: ImageStage, press: pressImageKey },
};
