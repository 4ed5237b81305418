"""Trained networks in use, on images that no recipe knows."""
