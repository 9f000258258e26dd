"""Mathematics without files: moments, directions, metrics."""
