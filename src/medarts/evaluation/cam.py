"""Where in an image a network sees a finding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medarts.network import FindingNetwork


def grad_cam(network: FindingNetwork, images_bchw: Tensor, finding: Sequence[int]) -> Tensor:
    """Returns how much every place of an image speaks for a finding, by Grad-CAM.

    Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017
    (arXiv:1610.02391): the last feature maps, each weighted by the spatial mean of the logit's gradient with respect
    to it, are summed, rectified and enlarged bilinearly to the size of the image.

    The network is run in evaluation mode; the modes of its modules and the gradients of its parameters are afterwards
    what they were before. The caller may have gradients switched off.

    Args:
        network: on the device of the images.
        images_bchw: images as the network takes them, 0..1.
        finding: for every image the index of a finding.

    Returns:
        Maps (B, H, W) of the images' size, each divided by its maximum: 0..1. A map is zero where nothing in the image
        speaks for the finding.

    Raises:
        ValueError: there are not as many findings as images.
        IndexError: the network has no finding of an index.
    """
    if len(finding) != len(images_bchw):
        raise ValueError(f"{len(finding)} findings for {len(images_bchw)} images")
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.inference_mode(False):
            with torch.no_grad():
                maps = network.features(images_bchw)
            gradients = _gradients(network, maps, finding).to(images_bchw.dtype)
    finally:
        for module, training in modes:
            module.training = training
    weights = gradients.mean((2, 3), keepdim=True)
    evidence = (weights * maps).sum(1, keepdim=True).relu()
    large = F.interpolate(evidence, size=images_bchw.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax((1, 2), keepdim=True)
    return large / torch.where(highest > 0, highest, 1)


def _gradients(network: FindingNetwork, maps_bchw: Tensor, finding: Sequence[int]) -> Tensor:
    """Returns the gradient of every image's logit of its finding with respect to its feature maps."""
    with torch.enable_grad():
        maps = maps_bchw.detach().requires_grad_()
        logits = network.classify(maps)
        chosen = logits[torch.arange(len(finding)), list(finding)]
        return torch.autograd.grad(chosen.sum(), maps)[0]
