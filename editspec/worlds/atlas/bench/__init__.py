"""The bench of edits of facts on Atlas: ``editspec bench facts``."""
