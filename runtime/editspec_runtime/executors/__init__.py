"""Where independent items of work are computed."""
