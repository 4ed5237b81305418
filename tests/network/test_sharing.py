"""What is drawn for the images of one process is what one process would draw for them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medarts.data.batches import Mixture
from medarts.errors import MedartsError
from medarts.network.sharing import current_share, sharing, unshared
from medarts.system.place import Place
from medarts.system.ranks import Ranks


def of_rank(rank: int, size: int) -> Ranks:
    """Returns a process of several that says nothing to the others."""
    ranks = Ranks()
    ranks.place = Place(rank, size, rank, size)
    return ranks


def drop_images(x: Tensor) -> Tensor:
    return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5)


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = torch.nn.MultiheadAttention(4, 2, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inside(*[x.flatten(1, 2)] * 3)[0]
        return y


@pytest.mark.parametrize("images", [3, 5, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "draw",
    [
        lambda x: F.dropout(x, 0.3),
        lambda x: F.dropout(x.clone(), 0.3, inplace=True),
        lambda x: F.dropout(x.permute(0, 3, 1, 2), 0.3),
        lambda x: F.dropout2d(x, 0.3),
        lambda x: F.dropout(x.mean((2, 3)), 0.3),
        lambda x: x + torch.randn_like(x),
        lambda x: x * torch.rand_like(x),
        lambda x: torch.bernoulli(torch.full_like(x, 0.5)),
        torch.nn.Dropout(0.3),
        drop_images,
    ],
)
def test_what_is_drawn_is_that_of_one_process(draw, layout, images):
    x = torch.rand(images, 8, 3, 3).contiguous(memory_format=layout)
    torch.manual_seed(1)
    expected = [draw(x), draw(x)]  # the second goes on where the first has ended
    found = []
    for rank in range(3):
        torch.manual_seed(1)
        with sharing(Mixture(x, ((1.0, x),)), of_rank(rank, 3), list) as (_, mine):
            found.append([draw(mine.images), draw(mine.images)])
    for number, whole in enumerate(expected):
        assert torch.equal(torch.cat([of_process[number] for of_process in found]), whole)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: x + torch.rand(x.shape),
        lambda x: x[torch.randperm(len(x))],
        lambda x: x * torch.randint(2, (len(x), 1, 1, 1)),
        lambda x: torch.multinomial(x.flatten(1), 1),
        lambda x: x.clone().random_(),
        lambda x: F.gumbel_softmax(x, dim=1),
        torch.nn.AlphaDropout(0.5),
        torch.nn.FeatureAlphaDropout(0.5),
        torch.nn.RReLU(),
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        Attention(),
    ],
)
def test_what_would_be_drawn_alike_for_the_images_of_all_processes_is_refused(draw):
    x = torch.rand(6, 2, 3, 4)
    with sharing(Mixture(x, ((1.0, x),)), of_rank(1, 2), list) as (_, mine):
        with pytest.raises(MedartsError, match="draws random numbers, which would be the same"):
            draw(mine.images)
        if isinstance(draw, torch.nn.Module):
            draw.eval()(mine.images)
            draw.train()
        assert torch.rand(()).shape == ()  # one number is for all
        F.scaled_dot_product_attention(x, x, x)


def test_noise_along_another_axis_is_refused_and_the_architecture_is_no_part():
    x, ranks = torch.ones(6, 2, 3, 3), of_rank(1, 2)
    with sharing(Mixture(x, ((1.0, x),)), ranks, list) as (share, mine):
        assert (share, len(mine.images)) == (0.5, 3)
        with pytest.raises(MedartsError, match="whose first axis is not that of the 3 images"):
            F.dropout(mine.images.transpose(0, 1), 0.5)
        with pytest.raises(MedartsError, match="whose first axis is not that of the 3 images"):
            torch.nn.BatchNorm2d(3)(mine.images.transpose(0, 1))
        with unshared():
            assert torch.rand_like(torch.ones(5, 2)).shape == (5, 2)
    assert current_share() is None
    with sharing(Mixture(x, ((1.0, x),)), Ranks(), list) as (share, all_of_it):
        assert share == 1.0
        assert all_of_it.images is x
