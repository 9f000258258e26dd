"""The numbers of the latent streams, each of which serves one purpose.

A number that is measured on images must not come from images that shaped the edit. So each purpose
has a stream of its own, and no item of one stream is an item of another. Imports no torch.
"""

SPECS = 1
"""The images that the integer latents of a spec name, where the spec gives no other seed."""

STATISTICS = 2
"""The images over which second moments are taken, where the spec gives no other seed."""

REPORTS = 3
"""Images that no edit has seen: those of reports, renders, the studio and the bench."""

SWEEPS = 4
"""Images by which a sweep chooses, so that those of reports stay unseen by the choice."""

CHECKS = 5
"""Images on which a check measures that names none."""

EVALUATION = 64
"""Images on which a generator itself is evaluated, as `editspec.worlds` does with theirs."""
