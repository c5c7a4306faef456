"""Batches: images decoded, cropped, augmented and normalised ahead of the training step."""
