"""Searching by training: a pool of candidates of which the better ones are trained on."""
