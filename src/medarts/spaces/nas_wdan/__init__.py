"""The search space nas-wdan: a lattice of resolutions, woven of down, normal and up cells. For images with masks.

Source: NAS-WDAN / MixSearch (arXiv 2102.13280), search space and search.

The lattice has nodes (t, l): layer t counted from the stem, level l with 1/2^(l+1) of the input's resolution. A cell
leads into a node from two earlier ones and halves, keeps or doubles the resolution; the node is the weighted sum of its
cells (betas). Inside a cell every edge is the weighted sum of its candidate operations (alphas). The derived network
keeps the strongest operation of the two strongest edges into each node of a cell, and the strongest cells of each node
of the lattice.
"""

from medarts.spaces.nas_wdan.settings import NasWdanSettings
from medarts.spaces.nas_wdan.space import NasWdan

__all__ = ["NasWdan", "NasWdanSettings"]
