"""The families of models that can be edited, one folder each."""
