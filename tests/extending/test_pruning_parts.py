"""A criterion of pruning from outside the package."""

import torch

from medarts import create_model
from medarts.pruning.criteria import make_criterion, scores_of
from medarts.pruning.selection import Target, choose_for
from medarts.pruning.units import cut, find_units
from medarts.registry import criteria


def test_a_criterion_chooses_what_is_cut(page):
    page("criterion")
    criterion = make_criterion(criteria.choose({"name": "spread", "power": 2.0}))
    network, image = create_model("unet", width=8, depth=2), torch.rand(1, 3, 16, 16)
    even = network.encoder[0][0].conv
    with torch.no_grad():
        even.weight[[1, 4, 6]] = 0.5  # as large as any, but all of one value
    units = find_units(network, image)
    scores = scores_of(criterion, units)
    selection = choose_for(Target(keep_channels=0.6), network, units, scores, scope=criterion.scope, image=image)
    assert selection.removals["encoder.0.0.conv"] == (1, 4, 6)
    cut(network, selection.removals, image)
    assert even.out_channels == 5
    assert network.eval()(image).shape == (1, 1, 16, 16)
