"""The methods that solve the rules of an edit, one file each."""
