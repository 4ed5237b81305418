"""Trained networks for other people: one file with a model card, or a MONAI bundle."""
