"""The transformer family."""
