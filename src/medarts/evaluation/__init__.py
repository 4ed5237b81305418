"""How good and how costly a network is: scores with intervals over patients, parameters, FLOPs, latency."""
