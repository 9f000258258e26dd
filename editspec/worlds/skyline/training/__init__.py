"""The parts of the training that `editspec.worlds.skyline.train` runs."""
