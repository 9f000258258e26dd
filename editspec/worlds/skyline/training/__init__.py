"""The pieces of `editspec.worlds.skyline.train`."""
