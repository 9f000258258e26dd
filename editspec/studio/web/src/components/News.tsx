// Messages: a request that was refused, and work that failed. They go with their cause.

import type { JSX } from "preact";
import { dismissed, failure, isChangedOutside, news, save } from "../store";
import { IconButton } from "./controls";

export function Messages(): JSX.Element | null {
  const [refusal, work] = [news.value, failure.value];
  const shown = refusal ?? work;
  const close = () => {
    news.value = null;
    if (!refusal) dismissed.value = work;
  };
  return (
    <div class="news" role="alert">
      {shown && (
        <>
          <div>
            <strong>{shown.message}</strong>
            {shown.hint && !isChangedOutside.value && <span>{shown.hint}</span>}
          </div>
          {isChangedOutside.value && <button type="button" onClick={() => save(true)}>Save over it</button>}
          <IconButton icon="remove" label="Close this message" onClick={close} />
        </>
      )}
    </div>
  );
}
