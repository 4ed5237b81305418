"""The search space darts: cells one behind the other, normal ones and reduce ones. For images with findings.

Source: DARTS (arXiv 1806.09055), sections 2.1 to 2.4, 3.1 and 3.2, appendix A.

Every edge of a cell is the weighted sum of its candidate operations (alphas), which all cells of a kind share. The
derived network, of more cells and channels, keeps the strongest operation of the two strongest edges into each node.
"""

from medarts.spaces.darts.settings import DartsSettings
from medarts.spaces.darts.space import Darts

__all__ = ["Darts", "DartsSettings"]
