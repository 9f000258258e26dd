"""Generated worlds in which the perfect edit is known; each ships its weights."""
