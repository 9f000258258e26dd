"""Texts in the studio: facts with their tokens, and completions."""
