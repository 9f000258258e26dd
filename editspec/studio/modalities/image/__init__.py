"""Images of latents in the studio: places that are painted, and the gallery."""
