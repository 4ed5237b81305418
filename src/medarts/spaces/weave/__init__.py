"""The weaved lattice of NAS-WDAN: geometry, mixed cell, supernet, derive rule."""
