"""What was cut away of a network: described, written, applied again; and what a damaged description does."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medarts.errors import RunError
from medarts.models import Architecture, architecture_named, build_network, list_models
from medarts.models.pruned import Pruned, pruned_from_json
from medarts.network import Network
from medarts.network.structure import Structure, check_cut, sizes_of, structure_of
from medarts.pruning.units import cut, find_units, half_of_each, small_image
from medarts.registry import Settings
from medarts.spaces.genotype import Genotype, from_json

BY_HAND: dict[str, dict[str, dict[str, int]]] = {
    "chexnet": {
        "densenet.features.denseblock1.denselayer1.layers.conv1": {"out": 100},
        "densenet.features.denseblock1.denselayer1.layers.norm2": {"channels": 100},
        "densenet.features.denseblock1.denselayer1.layers.conv2": {"in": 100},
    }
}
"""Of networks in which finding the units takes many seconds."""
LATTICE = {
    "frame.stem.0.0": {"out": 20},
    "frame.stem.0.1": {"channels": 20, "groups": 1},
    "frame.stem.1.0": {"in": 20},
}
OPTIONS: dict[str, Any] = {"in_channels": 1, "outputs": 2, "norm": None}


def small(name: str) -> Any:
    found = architecture_named(name)
    if isinstance(found, Genotype):
        settings = {"layers": 4} if found.space == "darts" else {}
        return found.with_settings(init_channel=4, **settings)
    changes = {key: value for key, value in {"width": 6, "depth": 3}.items() if key in type(found).model_fields}
    return found.model_copy(update=changes)


def built(architecture: Architecture, **options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(architecture, **OPTIONS | options)


def by_hand(name: str, architecture: Genotype | Settings) -> dict[str, dict[str, int]] | None:
    """Returns layers to cut, for networks in which finding the units takes many seconds."""
    if isinstance(architecture, Genotype) and architecture.space == "nas-wdan":
        return LATTICE
    return BY_HAND.get(name)


def assert_alike(network: Network, other: Network, image: Tensor) -> None:
    with torch.no_grad():
        for one, two in zip(network(image, all_heads=True), other(image, all_heads=True), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=2e-6 * float(two.abs().max()))


@pytest.mark.parametrize("name", list_models())
def test_a_cut_network_is_built_again_from_its_structure(name: str) -> None:
    architecture = small(name)
    network, layers = built(architecture), by_hand(name, architecture)
    if layers is None:
        image = small_image(network, 1)
        cut(network, half_of_each(find_units(network, image)), image)
    else:
        Structure(layers=layers).apply(network)
    with torch.device("meta"):
        structure = structure_of(network, built(architecture))
    assert layers in (None, structure.layers)
    assert all("out" not in sizes for path, sizes in structure.layers.items() if "head" in path)
    pruned = Pruned(f"{name}-l1-50", architecture, structure, ({"method": {"name": "l1"}, "keep": {"flops": 0.5}},))
    assert pruned_from_json(pruned.to_json(), architecture, origin="structure.json") == pruned
    again = built(pruned)
    again.load_state_dict(network.state_dict())
    assert [sizes_of(each) for each in again.modules()] == [sizes_of(each) for each in network.modules()]
    if layers is not None:
        return
    images = torch.rand(2, 1, *image.shape[2:])
    assert_alike(again.eval(), network.eval(), images)
    form = again.inference_form(torch.float32)
    if form is not None:
        assert_alike(form.eval(), network, images)
    built(pruned, outputs=5)


ZEROS = {
    "normal": [[["dep_conv", 0]], [["cweight", 2], ["conv", 0]], [["conv", 1], ["identity", 0]], [["conv", 3]]],
    "down": [[["identity", 0]], [["cweight", 2], ["conv", 0]], [["max_pool", 1]], [["down_conv", 1], ["identity", 4]]],
    "up": [[["identity", 0]], [["cweight", 2], ["conv", 0]], [["up_conv", 1]], [["up_dep_conv", 1], ["identity", 4]]],
}
"""Cells whose first two nodes read s0 alone; the last of the normal one reads a node that does."""


def with_zeros(width: int) -> Genotype:
    values = json.loads(small("alpha0_5_stage1_nodouble_deep_ep80").to_json()) | {"cells": ZEROS}
    return from_json(json.dumps(values), origin="test").with_settings(init_channel=width)


def test_nodes_that_are_zeros_stay_as_they_are() -> None:
    network = built(with_zeros(16))
    image = small_image(network, 1)
    cut(network, half_of_each(find_units(network, image)), image)
    network.take_away(())  # also what nothing runs, as pruning does
    structure = structure_of(network, built(with_zeros(16)))
    assert len(structure.layers) > 40
    again = built(Pruned("cut", with_zeros(16), structure))
    again.load_state_dict(network.state_dict())
    assert_alike(again.eval(), network.eval(), torch.rand(1, 1, 32, 32))
    form = again.inference_form(torch.float32)
    assert form is not None
    assert_alike(form.eval(), again, torch.rand(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("name", "heads", "without", "layers"),
    [
        ("unetpp", ("1",), (), {"nodes.0_0.0.conv": {"out": 4}, "nodes.0_0.0.norm": {"channels": 4}}),
        ("attention-unet", ("1/2", "1"), (), {"decoder.1.block.0.conv": {"out": 4}}),
        ("alpha0_5_stage1_nodouble_deep_ep80", ("4,0", "6,0"), ("5_1_up", "4_0_normal"), LATTICE),
    ],
)
def test_heads_and_parts_are_taken_away_first(
    name: str, heads: tuple[str, ...], without: tuple[str, ...], layers: dict[str, dict[str, int]]
) -> None:
    architecture = small(name)
    path, block = next(iter(layers)), next(iter(layers)).removesuffix(".0.conv")
    if block != path:
        layers = {path: {"out": 4}, f"{block}.0.norm": {"channels": 4}, f"{block}.1.conv": {"in": 4}}
    structure = Structure(heads=heads, without=without, layers=layers)
    network = built(Pruned("cut", architecture, structure))
    assert network.heads == heads
    assert structure_of(network, built(architecture), heads=heads, without=without) == structure
    images = torch.rand(1, 1, 32, 32)
    form = network.eval().inference_form(torch.float32)
    assert form is not None
    assert_alike(form.eval(), network, images)


def test_a_transposed_and_a_grouped_convolution_a_linear_layer_and_a_tensor() -> None:
    class Odd(Network):
        heads = ("last",)

        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2, bias=False)
            self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
            self.linear = nn.Linear(16, 5)
            self.scale = nn.Parameter(torch.ones(8), requires_grad=False)
            self.register_buffer("steps", torch.zeros(3, 8))
            self._lay_out()

        def check_size(self, size: int) -> None: ...

        def smallest_map(self, size: int) -> int:
            return size

        def forward_heads(self, x_bchw: Tensor, heads: Any = None) -> list[Tensor]:
            maps = self.up(x_bchw) * self.scale[:, None, None] + self.steps[0, :, None, None]
            return [self.linear(self.depthwise(maps).mean((2, 3)))]

    network = Odd()
    with pytest.raises(RunError, match="Odd has no parts or heads that can be taken away"):
        Structure(without=("up",)).apply(Odd())
    structure = Structure(
        layers={
            "": {"scale[0]": 6, "steps[1]": 6},
            "up": {"in": 4, "out": 6},
            "depthwise": {"in": 6, "out": 12, "groups": 6},
            "linear": {"in": 12},
        }
    )
    structure.apply(network)
    check_cut(network, in_channels=4, outputs=5)
    assert network.up.weight.shape == (4, 3, 2, 2)
    assert network.depthwise.weight.shape == (12, 1, 3, 3)
    assert not network.scale.requires_grad
    assert network.steps.shape == (3, 6)
    assert network.up.weight.is_contiguous(memory_format=torch.channels_last)
    assert structure_of(network, Odd()) == structure
    network.add_module("linear", nn.Sequential())
    with pytest.raises(ValueError, match="linear is no module of the network as built"):
        structure_of(network, Odd())


UNET = {"encoder.0.0.conv": {"out": 4}, "encoder.0.0.norm": {"channels": 4}, "encoder.0.1.conv": {"in": 4}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"encoder.0.9.conv": {"out": 4}}, r"no layer encoder.0.9.conv. Did you mean 'encoder.0.\d.conv'"),
        ({"encoder.0.0.conv": {"out": 7}}, "The layer encoder.0.0.conv has out 7; from 1 to 6 is possible"),
        (
            {"encoder.0.0.conv": {"channels": 4}},
            r"encoder.0.0.conv \(Conv2d\) has no size channels. Valid here: groups",
        ),
        ({"encoder.0.0": {"out": 4}}, r"encoder.0.0 \(ConvNorm\) has no size out"),
        ({"encoder.0.0.conv": {"out": 4}}, "layers do not fit each other"),
        ({"encoder.1.1.1.norm": {"groups": 5}}, r"has no size groups. Valid here: channels"),
        ({"head_convs.0": {"out": 1}}, "Its heads give 1 outputs, not 2"),
    ],
)
def test_a_structure_that_does_not_fit_is_one_message_that_names_the_layer(
    content: dict[str, dict[str, int]], words: str
) -> None:
    with pytest.raises(RunError, match=f"The structure of mine does not fit unet: .*{words}"):
        built(Pruned("mine", small("unet"), Structure(layers=content)))


def test_groups_stay_what_divides_the_channels() -> None:
    genotype = small("alpha0_5_stage1_nodouble_deep_ep80").with_settings(init_channel=8)
    depthwise = next(
        path
        for path, each in built(genotype).named_modules()
        if isinstance(each, nn.Conv2d) and each.groups == each.in_channels == 8
    )
    for layers, words in (
        ({"frame.stem.0.1": {"channels": 19}}, "frame.stem.0.1 has channels 19, not a multiple of its groups, 2"),
        ({depthwise: {"in": 5, "out": 5}}, f"{depthwise} has (in|out) 5, not a multiple of its groups, 8"),
        ({depthwise: {"groups": 4}}, f"{depthwise} has 4 groups, larger ones than as built"),
    ):
        with pytest.raises(RunError, match=words):
            built(Pruned("mine", genotype, Structure(layers=layers)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "EOF"),
        ("\x00", "expected value"),
        ("[]", "Input should be an object"),
        ('{"format": "medarts-genotype"}', "format: Input should be 'medarts-structure'"),
        ("{whole", "key must be a string"),
        ("[" * 10_000, "recursion limit"),
        ('{"structure": {"layers": {"a": {"in": 0}}}}', "greater than or equal to 1"),
        ('{"structure": {"layers": {"a": {"in": [3]}}}}', "valid integer"),
        ('{"structure": {"layers": {"a": {"in": 1.0}}}}', "valid integer"),
        ('{"structure": {"layers": {"a": {"in": true}}}}', "valid integer"),
        ('{"structure": {"layers": {"a": 3}}}', "layers.a: Input should be an object"),
        ('{"structure": {"layers": {"a": {}}}}', "at least 1 item"),
        ('{"structure": {"heads": []}}', "at least 1 item"),
        ('{"structure": {"heads": "last"}}', "valid array"),
        ('{"structure": {"other": 1}}', "structure.other: Extra inputs"),
        ('{"structure": {}, "name": "../x"}', "name: String should match"),
        ('{"structure": {}, "version": 2}', "version: Input should be 1"),
        ('{"structure": {}, "history": ["l1"]}', "history.0: Input should be an object"),
        ('{"version": 1}', "structure: Field required"),
    ],
)
def test_damaged_files_are_one_message(text: str, words: str) -> None:
    about = '{"format": "medarts-structure", "version": 1, "name": "mine", '
    whole = about + text[1:] if text.startswith('{"') and '"format"' not in text else text
    with pytest.raises(RunError, match=rf"runs/x/structure.json is damaged: .*{words}.*\. Copy the run again"):
        pruned_from_json(whole, small("unet"), origin="runs/x/structure.json")


def test_heads_and_parts_that_there_are_not() -> None:
    for name, structure, words in (
        ("unet", Structure(heads=("1/2",)), "no head '1/2'"),
        ("unetpp", Structure(heads=("9",)), "no head '9'"),
        ("unetpp", Structure(without=("1_0",)), "no part '1_0'"),
        ("darts_v2", Structure(heads=("last",), without=("cells.0",)), "can be taken away"),
        ("layer7_double_deep", Structure(without=("9_9_up",)), "no cell '9_9_up'"),
    ):
        with pytest.raises(RunError, match=f"The structure of mine does not fit {name}: .*{words}"):
            built(Pruned("mine", small(name), structure))


def test_trying_a_cut_network_changes_nothing() -> None:
    network = built(small("darts_v2").with_settings(auxiliary=True, init_channel=8))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    check_cut(network, in_channels=1, outputs=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.get_submodule("frame.auxiliary").add_module("2", nn.Conv2d(5, 128, 1))
    with torch.device("meta"):
        check_cut(built(small("unet")), in_channels=1, outputs=2)
    with pytest.raises(RunError, match="do not fit each other"):  # though only training runs it
        check_cut(network, in_channels=1, outputs=2)


def test_a_structure_file_has_a_layer_a_line_and_says_nothing_twice() -> None:
    pruned = Pruned("mine", small("unet"), Structure(layers=UNET), ({"method": {"name": "l1"}},))
    assert pruned.to_json().splitlines()[5:9] == [
        '  "layers": {',
        '   "encoder.0.0.conv": {"out": 4},',
        '   "encoder.0.0.norm": {"channels": 4},',
        '   "encoder.0.1.conv": {"in": 4}',
    ]
    assert '"heads"' not in pruned.to_json()
    whole = Pruned("w", small("unet"), Structure())
    assert pruned_from_json(whole.to_json(), small("unet"), origin="x") == whole
