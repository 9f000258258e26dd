"""The family ``torch``: any torch network whose layers are modules."""
