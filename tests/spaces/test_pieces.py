"""Pieces of a network hold all that is computed in it, no more and no less: their FLOPs add up."""

import pytest
import torch

from medarts.models import build_network
from medarts.profiling.cost import count_flops, last_head
from medarts.profiling.flops import FlopCounter
from medarts.spaces import load_genotype, space_of
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.genotype import Genotype
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.spaces.nas_wdan.settings import NasWdanChoices
from medarts.spaces.pieces import Piece

WHOLE = NasWdanChoices(stem_stride=(1,), stem_channels=(16,))
FULL = NasWdanChoices(full_size_head=(True,), stem_channels=(32,))

GENOTYPES = {
    **{f"nas-wdan-{seed}": NasWdan.sample(NasWdanSettings(init_channel=4), seed=seed) for seed in range(6)},
    **{f"darts-{seed}": Darts.sample(DartsSettings(init_channel=4), seed=seed) for seed in range(2)},
    "nas-wdan-whole": NasWdan.sample(NasWdanSettings(init_channel=4, choices=WHOLE), seed=0),
    "nas-wdan-full": NasWdan.sample(NasWdanSettings(init_channel=4, choices=FULL), seed=0),
    "cifar": load_genotype("darts_v2").with_settings(stem="cifar", layers=5, init_channel=3),
}


def flops_of(piece: Piece) -> int:
    with torch.device("meta"):
        module = piece.build().eval()
        inputs = [torch.empty(1, *shape) for shape in piece.shapes]
        with torch.inference_mode(), FlopCounter() as counter:
            module(*inputs)
    return counter.total


@pytest.mark.parametrize("genotype", GENOTYPES.values(), ids=GENOTYPES)
@pytest.mark.parametrize("size", [64, 97])
def test_flops_add_up(genotype: Genotype, size: int) -> None:
    if genotype.space == "nas-wdan" and size % 64:
        pytest.skip("cannot be halved so often")
    about = {"in_channels": 2, "outputs": 3}
    with torch.device("meta"):
        network = build_network(genotype, **about).eval()
        image = torch.empty(1, 2, size, size)
    whole = count_flops(last_head(network, network), in_channels=2, size=size, images=image)
    pieces = space_of(genotype).pieces(genotype, **about, size=size)
    assert pieces is not None
    assert sum(number * flops_of(piece) for piece, number in pieces.items()) == whole


def test_norms_make_other_pieces() -> None:
    genotype = GENOTYPES["nas-wdan-0"]
    about = {"in_channels": 3, "outputs": 1, "size": 64}
    batch, group = (NasWdan.pieces(genotype, **about, norm=norm) for norm in ("batch", "group"))
    assert batch != group
    assert NasWdan.pieces(genotype, **about) == group


def test_operations_of_users_are_not_kept_for_another_day() -> None:
    from medarts.spaces.nas_wdan.operations import OperationSettings
    from medarts.spaces.nas_wdan.pieces import operation_piece

    of = OperationSettings(affine=True)
    assert operation_piece("normal", "conv", 4, size=8, of=of).lasts
    assert not operation_piece("normal", "mine", 4, size=8, of=of).lasts


def test_cells_that_no_part_of_the_last_head_reads_are_not_there() -> None:
    genotype = GENOTYPES["nas-wdan-0"]
    network = build_network(genotype, in_channels=3, outputs=1).eval()
    network.take_away((), network.heads[-1:])
    found = NasWdan.pieces(genotype, in_channels=3, outputs=1, size=64)
    assert sum(number for piece, number in found.items() if piece.name == "join") == len(network.frame.cells)
    assert sum(number for piece, number in found.items() if piece.is_once) == 2, "stem and head"
