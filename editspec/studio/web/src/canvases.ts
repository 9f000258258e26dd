// What each modality shows of an edit, and says of it. One line each.

import { computed } from "@preact/signals";
import type { JSX } from "preact";
import type { Edit } from "./api";
import { GalleryPanel } from "./components/Gallery";
import { Layers as ImageLayers } from "./image/Layers";
import { pressImageKey } from "./image/ImageCanvas";
import { ImageStage } from "./image/ImageStage";
import { state } from "./store";
import { Layers as TextLayers } from "./text/Layers";
import { Completions } from "./text/Completions";
import { nextOf as nextOfFacts } from "./text/facts";
import { TextStage } from "./text/TextStage";
import { Layers as ConceptLayers } from "./text_to_image/Layers";
import { nextOf as nextOfConcepts } from "./text_to_image/concepts";
import { Pictures } from "./text_to_image/Pictures";
import { PromptStage } from "./text_to_image/PromptStage";
import { nextOfImages } from "./words";

interface Canvas {
  /** The middle: what an edit is about. */
  Stage: () => JSX.Element;
  /** On the right: what the model gives before and after. */
  Panel: () => JSX.Element;
  /** The layers of an edit, in the form of its rule. */
  Layers: (properties: { edit: Edit }) => JSX.Element;
  hasRank: boolean;
  /** What the loss is the distance from. */
  aim: string;
  /** The next step of an edit; null where it has all of them. */
  next: (edit: Edit) => string | null;
  /** What a problem calls the steps of an edit that has no source, or no target. */
  steps: { source: string; target: string };
  /** Take a key; false where it is none of the canvas. */
  press?: (event: KeyboardEvent) => boolean;
}

const CANVASES: Record<string, Canvas> = {
  image: {
    Stage: ImageStage, Panel: GalleryPanel, Layers: ImageLayers, hasRank: true, aim: "what was pasted", next: nextOfImages, press: pressImageKey,
    steps: { source: "copy something (step 1)", target: "paste it somewhere (step 2)" },
  },
  text: {
    Stage: TextStage, Panel: Completions, Layers: TextLayers, hasRank: false, aim: "the values that are asked for",
    next: ({ given }) => nextOfFacts(given),
    steps: { source: "write what the model is to go on with (step 2)", target: "write a prompt and its subject (step 1)" },
  },
  text_to_image: {
    Stage: PromptStage, Panel: Pictures, Layers: ConceptLayers, hasRank: true, aim: "the answers that are asked for",
    next: ({ given }) => nextOfConcepts(given),
    steps: { source: "write what it is answered like (step 2)", target: "write the concept (step 1)" },
  },
};

export const canvas = computed<Canvas>(() => CANVASES[state.value.model.modality]!);
