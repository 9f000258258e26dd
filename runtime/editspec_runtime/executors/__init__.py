"""Executors and devices: the places that compute independent items of work."""
