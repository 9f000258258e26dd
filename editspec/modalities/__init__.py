"""Modalities: how their outputs are shown and measured."""
