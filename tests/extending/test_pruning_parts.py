"""A criterion of pruning from outside the package."""

import pytest
import torch

from medarts import create_model
from medarts.config import KeepSettings
from medarts.pruning.criteria import make_criterion, scores_of
from medarts.pruning.selection import Cuts, choose_for
from medarts.pruning.units import cut, examine, find_units, half_of_each, masked
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
    cuts = Cuts(network, units, scores, scope=criterion.scope, image=image)
    selection = choose_for(KeepSettings(channels=0.6), cuts)
    assert selection.removals["encoder.0.0.conv"] == (1, 4, 6)
    cut(network, selection.removals, image)
    assert even.out_channels == 5
    assert network.eval()(image).shape == (1, 1, 16, 16)


@pytest.mark.parametrize(("name", "maker"), [("baseline", "head"), ("operation", "frame.heads.2_0.conv")])
def test_networks_with_parts_of_a_user_are_cut(page, name, maker):
    network, image = page(name).network.eval(), torch.rand(1, 1, 32, 32)
    found = examine(network, image)
    assert maker in found.fixed
    assert {*found.fixed.values()} <= {"outputs of the network", "one channel"}
    removals = half_of_each(found.units)
    with torch.no_grad(), masked(network, found.units, removals):
        expected = network(image)
    cut(network, removals, image)
    torch.testing.assert_close(network(image).detach(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
