"""medarts designs compact neural networks for medical images by differentiable architecture search."""

__version__ = "0.1.0"
