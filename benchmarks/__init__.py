"""Measurements of speed, each beside the strongest peer that runs the same task."""
