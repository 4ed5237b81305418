"""What a network costs: parameters, FLOPs, latency, memory, and the time of a recipe."""
