"""The protocols that everything else is written against."""
