"""The methods that solve a rule, one file each."""
