"""Reading and writing files: the one place that touches foreign bytes."""
