"""The stack of normal and reduce cells of DARTS: operations, mixed cell, supernet, genotypes."""
