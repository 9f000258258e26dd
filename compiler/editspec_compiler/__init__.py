"""The compiler of editspec: spec text -> checked spec -> rule tensors."""
