"""Numbers without files: moments, directions, metrics."""
