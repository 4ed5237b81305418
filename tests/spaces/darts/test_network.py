from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from medarts.errors import GenotypeError, RecipeError
from medarts.spaces.darts.frame import AuxiliaryHead, Position
from medarts.spaces.darts.genotypes import check
from medarts.spaces.darts.network import DartsCell, DartsNetwork, drop_path
from medarts.spaces.darts.operations import IN_NETWORK, FactorizedReduce
from medarts.spaces.genotype import Genotype, from_json
from medarts.spaces.genotype import load_genotype as load

ZOO = ("chestxray14_first_order", "darts_v2")


def small(name: str = "chestxray14_first_order", **settings: int | float | bool) -> Genotype:
    return load(name).with_settings(**({"init_channel": 4, "layers": 4, "drop_path_prob": 0.0} | settings))


def network(genotype: Genotype | None = None, **options: int) -> DartsNetwork:
    torch.manual_seed(0)
    return DartsNetwork(genotype or small(), **options)


def images(size: int = 64, *, number: int = 2) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(5))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Source: the network published for ChestX-ray14; the evaluation network of DARTS V2 (arXiv 1806.09055, table 1).
@pytest.mark.parametrize(("name", "outputs", "parameters"), [(ZOO[0], 14, 7_341_098), (ZOO[1], 10, 3_349_342)])
def test_published_genotypes_have_the_published_parameters(name: str, outputs: int, parameters: int) -> None:
    with torch.device("meta"):
        plain = DartsNetwork(load(name), outputs=outputs)
        with_head = DartsNetwork(load(name).with_settings(auxiliary=True), outputs=outputs)
    assert count(plain) == parameters
    assert count(with_head) == parameters + count(cast(nn.Module, with_head.frame.auxiliary))


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_holds_the_published_cells(name: str) -> None:
    genotype = load(name)
    settings = check(genotype)
    assert (settings.init_channel, settings.layers, settings.intermediate_nodes) == (36, 20, 4)
    assert settings.stem == ("cifar" if name == "darts_v2" else "chest")
    assert all(len(node) == 2 for cell in genotype.cells.values() for node in cell)
    assert from_json(genotype.to_json(), origin="written") == genotype


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("size", [32, 33, 64, 75])
def test_takes_odd_sizes(name: str, size: int) -> None:
    net = network(small(name), outputs=3).eval()
    net.check_size(size)
    x = images(size)
    features = net.features(x)
    divisor = 4 if name == "darts_v2" else 32
    assert features.shape == (2, 4 * (16 if name == "darts_v2" else 32), -(-size // divisor), -(-size // divisor))
    logits = net(x)
    assert logits.shape == (2, 3)
    assert torch.equal(logits, net.classify(features))
    assert features.shape[-1] == net.smallest_map(size)


@pytest.mark.parametrize(("name", "size"), [("chestxray14_first_order", 31), ("darts_v2", 3)])
def test_refuses_images_smaller_than_one_pixel_of_the_last_maps(name: str, size: int) -> None:
    net = network(small(name))
    with pytest.raises(RecipeError, match=f"The size {size} is too small"):
        net.check_size(size)
    net.check_size(size + 1)


def test_a_cell_is_the_sum_of_its_edges() -> None:
    torch.manual_seed(0)
    edges = ((("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 2), ("dil_conv_5x5", 1)))
    position = Position("reduce", s0_channels=6, s1_channels=8, channels=4, reduction_before=True)
    cell = DartsCell(edges, position=position, settings=IN_NETWORK)
    assert isinstance(cell.input0, FactorizedReduce)
    s0, s1 = torch.randn(3, 6, 18, 14), torch.randn(3, 8, 9, 7)
    a, b = cell.input0(s0), cell.input1(s1)
    (sep, skip), (pool, dil) = ([*cast(nn.ModuleList, node)] for node in cell.operations)
    assert isinstance(skip, FactorizedReduce)
    node0 = sep(a) + skip(b)
    expected = torch.cat([node0, pool(node0) + dil(b)], dim=1)
    assert expected.shape == (3, 8, 5, 4)
    torch.testing.assert_close(cell(s0, s1), expected)


def test_the_state_has_statistics_and_pools_have_no_scale() -> None:
    net = network()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.train()(images())
    assert any(not torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    alone, both = images()[:1], images()
    net.eval()
    torch.testing.assert_close(net(alone), net(both)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(("size", "number"), [(64, 2), (45, 1), (75, 3)])
def test_auxiliary_head_is_there_in_training_alone(name: str, size: int, number: int) -> None:
    net = network(small(name, auxiliary=True), outputs=3)
    x = images(size, number=number)
    assert net.heads == ("last",)
    net.train()
    torch.manual_seed(0)
    auxiliary, last = net(x, all_heads=True)
    assert auxiliary.shape == last.shape == (number, 3)
    assert torch.equal(net(x, head="last"), last)
    auxiliary.sum().backward()
    assert all(parameter.grad is not None for parameter in cast(nn.Module, net.frame.auxiliary).parameters())
    assert net.frame.classifier.weight.grad is None
    assert len(net.eval()(x, all_heads=True)) == 1


def test_auxiliary_head_reads_the_cell_at_two_thirds() -> None:
    net = network(small(layers=7, auxiliary=True)).train()
    outputs: list[Tensor] = []
    for cell in net.frame.cells:
        cell.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    auxiliary, _ = net(images(), all_heads=True)
    assert torch.equal(auxiliary, cast(AuxiliaryHead, net.frame.auxiliary)(outputs[4]))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 14])
def test_auxiliary_head_takes_maps_of_any_size(size: int) -> None:
    head = AuxiliaryHead(6, 3, IN_NETWORK).train()
    assert head(torch.rand(1, 6, size, size)).shape == (1, 3)


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="no head 'auxiliary'"):
        network()(images(), head="auxiliary")


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.rand(4000, 2, 2, 2) + 1
    y = drop_path(x, 0.25)
    dropped = (y == 0).flatten(1)
    assert (dropped.all(1) == dropped.any(1)).all()
    assert dropped.all(1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    kept = ~dropped.all(1)
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert y.mean().item() == pytest.approx(x.mean().item(), rel=0.03)


def test_drop_path_grows_with_the_progress_of_training() -> None:
    net = network(small(drop_path_prob=0.5)).train()
    x = images()

    def run(progress: float, seed: int) -> Tensor:
        net.at(progress)
        torch.manual_seed(seed)
        return cast(Tensor, net(x))

    assert torch.equal(run(0.0, 0), run(0.0, 1))
    assert torch.equal(run(1.0, 0), run(1.0, 0))
    assert not torch.allclose(run(1.0, 0), run(1.0, 1))
    assert torch.equal(run(1e-9, 3), run(1e-9, 4))  # nothing is ever dropped, and dividing by 1 - 5e-10 changes nothing
    net.eval()
    assert torch.equal(run(1.0, 0), run(1.0, 1))
    assert torch.equal(run(1.0, 0), run(0.0, 0))


def test_drop_path_never_drops_the_identity() -> None:
    edges = ((("skip_connect", 0), ("skip_connect", 1)),)
    position = Position("normal", s0_channels=4, s1_channels=4, channels=4, reduction_before=False)
    cell = DartsCell(edges, position=position, settings=IN_NETWORK)
    s0, s1 = torch.randn(8, 4, 5, 5), torch.randn(8, 4, 5, 5)
    assert torch.equal(cell(s0, s1, drop_path_prob=0.9), cell(s0, s1))
    reducing = DartsCell(edges, position=replace(position, kind="reduce"), settings=IN_NETWORK)
    assert (reducing(s0, s1, drop_path_prob=0.9) == 0).flatten(1).all(1).any()


def test_every_parameter_that_is_read_gets_a_gradient() -> None:
    net = network(small(auxiliary=True)).train()
    sum(logits.sum() for logits in net(images(96), all_heads=True)).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


GENOTYPE = small()
SETTINGS: dict[str, Any] = dict(GENOTYPE.settings)


def cell_with(operation: str, state: int) -> Genotype:
    nodes = (((operation, state), ("skip_connect", 1)), *GENOTYPE.cells["normal"][1:])
    return replace(GENOTYPE, cells={**GENOTYPE.cells, "normal": nodes})


@pytest.mark.parametrize(
    ("genotype", "says"),
    [
        (load("layer7_double_deep"), "is of the space 'nas-wdan', not 'darts'"),
        (replace(GENOTYPE, settings={**SETTINGS, "depth": 3}), "unknown setting 'depth'"),
        (replace(GENOTYPE, settings={key: SETTINGS[key] for key in SETTINGS if key != "layers"}), "lacks a setting"),
        (replace(GENOTYPE, settings={**SETTINGS, "layers": True}), "layers True, which is not a whole number"),
        (replace(GENOTYPE, settings={**SETTINGS, "auxiliary": 1}), "auxiliary 1, which is not a truth value"),
        (replace(GENOTYPE, settings={**SETTINGS, "stem": "imagenet"}), "stem 'imagenet', which is not chest or cifar"),
        (replace(GENOTYPE, settings={**SETTINGS, "stem": 3}), "stem 3, which is not chest or cifar"),
        (replace(GENOTYPE, settings={**SETTINGS, "layers": 3}), "layers 3, too few for the chest stem"),
        (replace(GENOTYPE, settings={**SETTINGS, "init_channel": 1}), "init_channel 1. Use 2 to 1,024"),
        (replace(GENOTYPE, settings={**SETTINGS, "drop_path_prob": 1.0}), "drop_path_prob 1.0. Use 0 to below 1"),
        (replace(GENOTYPE, settings={**SETTINGS, "drop_path_prob": float("nan")}), "drop_path_prob nan. Use 0"),
        (replace(GENOTYPE, settings={**SETTINGS, "intermediate_nodes": 3}), "4 nodes in its normal cell"),
        (replace(GENOTYPE, cells={"normal": GENOTYPE.cells["normal"]}), "no nodes in its reduce cell"),
        (replace(GENOTYPE, cells={**GENOTYPE.cells, "up": ()}), "has up cells; darts has none"),
        (cell_with("sep_conv_3x3", 2), "node 0 of the normal cell reads state 2"),
        (cell_with("sep_conv_3x3", -1), "node 0 of the normal cell reads state -1"),
        (cell_with("sep_conv_7x7", 0), "'sep_conv_7x7' cannot be used on the edge"),
        (cell_with("none", 0), "'none' cannot be used"),
    ],
)
def test_refuses_genotypes_that_do_not_fit(genotype: Genotype, says: str) -> None:
    with pytest.raises(GenotypeError, match=says) as error:
        DartsNetwork(genotype)
    assert genotype.name in error.value.problem


def test_the_layout_of_the_weights_changes_no_number() -> None:
    torch.manual_seed(0)
    net = DartsNetwork(load("chestxray14_first_order").with_settings(init_channel=4, layers=4), outputs=3).double()
    x = torch.rand(2, 3, 48, 48, dtype=torch.float64)
    found = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        net.to(memory_format=memory_format).zero_grad()
        logits = net(x)
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad.clone() for p in net.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_logits_keep_full_precision_inside_autocast() -> None:
    torch.manual_seed(0)
    net = DartsNetwork(load("chestxray14_first_order").with_settings(init_channel=4, layers=4), outputs=1).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        maps = net.features(torch.rand(64, 3, 32, 32))
        logits = net.classify(maps)
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > len(logits.bfloat16().unique())
