"""Training of a network from scratch: the loop, and where it starts."""
