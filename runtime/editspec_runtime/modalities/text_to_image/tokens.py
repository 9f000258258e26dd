"""The numbers of the tokens of prompts; imports no torch."""

from __future__ import annotations

PromptTokens = tuple[tuple[int, ...], ...]
"""The numbers of the tokens of a prompt, for each text encoder."""
