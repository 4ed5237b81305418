"""The fused backend of mixed cells: the same numbers as the reference, computed together for all edges of a state."""
