"""The commands, one file each: functions with frozen results."""
