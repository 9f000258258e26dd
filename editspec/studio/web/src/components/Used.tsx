// Where an edit of another spec comes from: its values cannot be changed here.

import type { JSX } from "preact";
import type { Edit } from "../api";

export function Used({ edit }: { edit: Edit }): JSX.Element | null {
  if (!edit.used) return null;
  return (
    <p class="hint used" role="note">
      This is the edit of <code>{edit.used}</code>, and its values stand there. Change that file, or choose values of its parameters
      by <code>with:</code> in the text.
    </p>
  );
}
