"""The studio: Copy, Paste and Context in the browser, as an editor of a spec (paper section 4).

The text of the spec is the state: every gesture on the page changes it, and everything that the
page shows is read from it. The modules, from the text up to the wire:

    editing     a change of the text that keeps its comments and its order
    bounds      what a text that comes from a browser may name
    session     the draft in its project folder: revisions, undo, masks, save
    engine      the model: images, composites, heat maps, builds
    jobs        long work in the background: progress, cancelling
    security    token, Host, Origin, size of what is sent
    messages    what the API is sent and answers
    api         the API, and the page
    server      how it is served
"""
