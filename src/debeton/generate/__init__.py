"""Synthetic image sets: prompts, generators, filters and the folders that hold the images."""
