// The context: its places, and what a search has found for it.

import type { JSX } from "preact";
import { address, imageAddress, type Match, type Place } from "../api";
import { Icon, IconButton, TextButton } from "../components/controls";
import { addMatch, addRegion, openEntry, removeContext, search } from "../places";
import { canEdit, edit, entry, heat, latent, number, state } from "../store";

const SIDE = 64;

export function Strip(): JSX.Element {
  const of = edit.value!;
  const { job, readable } = state.value;
  const isBusy = job !== null && !job.yielding;
  const hasKey = of.context.length > 0 || of.target !== null;
  const taken = new Set(of.context.map((place) => place.latent));
  const matches = of.found.filter((match) => !taken.has(match.latent));
  const hasRegions = latent.value !== null && taken.has(latent.value);
  return (
    <div class="strip">
      <div class="strip-head">
        <TextButton icon="search" disabled={isBusy || !hasKey || !readable} onClick={search}>Search similar places</TextButton>
        <TextButton icon="heat" aria-pressed={heat.value} disabled={!hasKey} onClick={() => (heat.value = !heat.value)}>
          Heat map of the key
        </TextButton>
        <TextButton
          icon="plus" disabled={!hasRegions || entry.value === null || !canEdit.value} onClick={addRegion}
          title="Paint one more place in this image"
        >
          Another region
        </TextButton>
      </div>
      <div class="thumbs" role="group" aria-label="Context" tabIndex={0}>
        {of.context.map((place, index) => <Thumb key={index} place={place} index={index} />)}
        {of.context.length === 0 && of.target && <Implied place={of.target} />}
        {of.context.length === 0 && (
          <span class="strip-words">
            {of.target ? "Without context, the rule holds where it was pasted. That place stays when others are added." : ""}
          </span>
        )}
      </div>
      {matches.length > 0 && (
        <div class="thumbs" role="group" aria-label="Similar places" tabIndex={0}>
          {matches.map((match) => <Found key={match.latent} match={match} />)}
        </div>
      )}
    </div>
  );
}

function imageOf(place: Place, role: string, index: number): string {
  const { model } = state.value;
  if (place.latent !== null) return imageAddress(model.name, model.seed, place.latent);
  return address(`edits/${number.value}/scenes/${role}?index=${index}`);
}

function Pictures({ place, role, index }: { place: Place; role: string; index: number }): JSX.Element {
  const mask = address(`edits/${number.value}/masks/${role}?index=${index}&mask=${place.mask}`);
  return (
    <>
      <img src={imageOf(place, role, index)} alt="" width={SIDE} height={SIDE} />
      {place.mask && <img src={mask} alt="" width={SIDE} height={SIDE} class="thumb-mask" />}
    </>
  );
}

function Thumb({ place, index }: { place: Place; index: number }): JSX.Element {
  return (
    <span class="thumb">
      <button
        type="button" class="thumb-image" aria-pressed={index === entry.value} aria-label={`Context ${place.words}`}
        onClick={() => openEntry(index)}
      >
        <Pictures place={place} role="context" index={index} />
      </button>
      <IconButton
        icon="remove" label={`Remove context ${place.words}`} class="thumb-remove" disabled={!canEdit.value}
        onClick={() => removeContext(index)}
      />
    </span>
  );
}

/** The target, where the rule holds as long as there is no context. */
function Implied({ place }: { place: Place }): JSX.Element {
  return (
    <span class="thumb implied" title="Where it was pasted">
      <span class="thumb-image"><Pictures place={place} role="target" index={0} /></span>
    </span>
  );
}

function Found({ match }: { match: Match }): JSX.Element {
  const { model } = state.value;
  const [left, top, right, bottom] = match.box.map((edge) => (100 * edge) / model.image_size) as [number, number, number, number];
  return (
    <span class="thumb">
      <button
        type="button" class="thumb-image" data-key={`found-${match.latent}`} aria-label={`Add image ${match.latent} to the context`}
        title={`Image ${match.latent}: add it to the context`} disabled={!canEdit.value} onClick={() => addMatch(match)}
      >
        <img src={imageAddress(model.name, model.seed, match.latent)} alt="" width={SIDE} height={SIDE} />
        <span class="thumb-frame" style={{ inset: `${top}% ${100 - right}% ${100 - bottom}% ${left}%` }} />
        <span class="thumb-add"><Icon name="plus" /></span>
      </button>
    </span>
  );
}
