"""The protocols and plain values that everything else is written against."""
