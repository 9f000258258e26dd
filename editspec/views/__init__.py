"""What people look at: the report, charts, keys and values."""
