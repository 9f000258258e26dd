"""Charts: where ticks, points, labels and curves lie, and how they are drawn."""
