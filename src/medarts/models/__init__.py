"""Networks that are trained from scratch: those built from a genotype, and (later) hand-made baselines."""
