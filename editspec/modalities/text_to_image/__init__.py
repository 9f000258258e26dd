"""Models that draw what a prompt says."""
