"""The bench of the paper's tables on Skyline: ``editspec bench paper``."""
