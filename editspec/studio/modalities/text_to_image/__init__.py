"""Prompts in the studio: concepts with their tokens, and what is drawn for them."""
