"""The studio: an editor of a spec in the browser.

Copy, Paste and Context are the gestures of section 4 of the paper (Bau et al. 2020). The text of
the spec is the state: every gesture on the page changes it, and everything that the page shows is
read from it. The modules, from the text up to the wire:

    identities    which edit of a changed text is which edit of the text before
    parsed        documents of texts, each parsed once
    yaml_blocks   a YAML spec as one block of lines for each edit
    spec_editor   changes of the text that keep its comments and its order
    sandbox       limits of a text that comes from a browser
    masks         the masks that were painted, as drafts and in the project
    draft_store   the folder in which the draft is kept
    draft         the draft in its project folder: revisions, undo, masks, save
    modality_registry   what the studio asks of a modality, and where it lies
    base          the model that the text names
    jobs          long work in the background: progress, cancelling
    outcomes      the results of Execute that are at hand
    answers       what models have answered, before and after
    engine        builds, and questions to the model
    modalities    the part of each modality: images (gallery, composites, searches, traces), texts
                  (facts, completions), prompts (concepts, what is drawn)
    schemas       the bodies that the API is sent, and its answers
    describe      the answers, from a draft and what was computed with it
    routers       the API, a router for each resource, and the page
    app           the application of the routers, and its answers to errors
    guard         token, Host, Origin, size of a request
    server        the process that serves all of it

The sources of the page are in ``web``; ``static`` is built from them.
"""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from types import ModuleType
from typing import Any

from editspec_runtime.io.extra_registry import load_extra


def studio(
    spec: Path | str | None = None,
    *,
    model: str | None = None,
    module: str | None = None,
    port: int | None = None,
    host: str = "127.0.0.1",
    device: str = "auto",
    open: bool = False,
) -> None:
    """Serve the studio until it is interrupted, and print the address to open.

    Parameters
    ----------
    spec
        A spec, new or not. Default: edits.yaml in the working folder.
    model
        The weights of a new spec. Default: those of `editspec.worlds.registry.DEFAULT_WEIGHTS`.
    module
        The code of the network of a new spec, ``package.module:factory``. Default: none.
    port
        Where to listen; 0: any port that is free. Default: 8642, or any.
    host
        An address of the network makes the studio listen there: whoever has the address with its
        token may edit.
    open
        Whether to open the address in the browser, too.

    Raises
    ------
    UsageError
        The packages of the extra ``studio`` are not installed, or the port is taken.
    SpecError, EditError
        The spec cannot be read, or its model cannot be drawn with.
    """
    server = load_extra("studio", "server")

    def announce(address: str) -> None:
        # Flushed, because the program that waits for the address may read a pipe.
        print(address, flush=True)
        if open:
            webbrowser.open(address)

    server.serve(
        Path(spec or "edits.yaml"),
        model,
        module=module,
        host=host,
        port=port,
        device=device,
        announce=announce,
        tell=_tell,
    )


def _tell(words: str) -> None:
    # On stderr, as stdout is the address alone.
    print(words, file=sys.stderr, flush=True)


class _CallablePackage(ModuleType):
    """The package as its own command: `editspec.studio` names both."""

    def __call__(self, *arguments: Any, **named: Any) -> None:
        studio(*arguments, **named)


sys.modules[__name__].__class__ = _CallablePackage
