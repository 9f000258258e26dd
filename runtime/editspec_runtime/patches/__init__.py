"""Patches, stacks of them, and applying them."""
