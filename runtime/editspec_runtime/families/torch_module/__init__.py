"""Any torch network whose layers are modules: the family ``torch``."""
