"""Operations that users register: right in both backends, in genotypes and networks, and in no search by themselves."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from medarts.config import DeriveSettings, StageSettings, SupernetSettings
from medarts.errors import GenotypeError
from medarts.models import create_model
from medarts.network.inference import shipped
from medarts.profiling.cost import count_flops
from medarts.spaces import random_genotype, register_operation, space_settings
from medarts.spaces.base import Supernet
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.darts import supernet as darts
from medarts.spaces.genotype import Genotype, from_json
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.spaces.nas_wdan import supernet as nas_wdan
from medarts.spaces.nas_wdan.settings import LatticeSettings


class Scaled(nn.Module):
    """An operation that no backend knows: a norm of its own, no ReLU, maybe a stride."""

    def __init__(self, channels: int, *, stride: int = 1, weighed: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2.0, channels)) if weighed else None
        self.pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()

    def forward(self, x_bchw: Tensor) -> Tensor:
        y: Tensor = torch.sin(self.pool(x_bchw))
        return y if self.scale is None else y * self.scale[:, None, None]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for sets in (NasWdan.operations, Darts.operations):
        for operations in sets.values():
            monkeypatch.setattr(operations, "_builders", dict(operations._builders))
    register_operation("nas-wdan", "normal", "my_scale", lambda c, settings: Scaled(c))
    register_operation("nas-wdan", "normal", "my_sine", lambda c, settings: Scaled(c, weighed=False))
    register_operation("nas-wdan", "down", "my_down", lambda c, settings: Scaled(c, stride=2))
    for kind in ("normal", "reduce"):
        register_operation("darts", kind, "my_scale", lambda c, stride, settings: Scaled(c, stride=stride))
        register_operation(
            "darts", kind, "my_sine", lambda c, stride, settings: Scaled(c, stride=stride, weighed=False)
        )


OF_NAS_WDAN = {"normal": ("none", "conv", "my_scale", "identity", "my_sine"), "down": ("my_down", "avg_pool")}
OF_DARTS = {"normal": ("none", "my_scale", "sep_conv_3x3", "my_sine"), "reduce": ("my_scale", "skip_connect")}
ALONE = {"normal": ("my_scale",), "down": ("my_down",)}


def supernets(space: str, operations: dict[str, tuple[str, ...]], **supernet: Any) -> tuple[Supernet, Supernet]:
    """Returns a supernet of both backends, in float64, with the same parameters."""
    made: list[Supernet] = []
    for backend in ("REFERENCE", "FUSED"):
        torch.manual_seed(0)
        settings = SupernetSettings(**supernet)
        if space == "darts":
            made.append(
                darts.DartsSupernet(
                    DartsSettings(stem="cifar", search_channel=8, intermediate_nodes=3, operations=operations),
                    depth=3,
                    supernet=settings,
                    backend=getattr(darts, backend),
                )
            )
        else:
            lattice = LatticeSettings(3, 8, True, 3)
            made.append(
                nas_wdan.NasWdanSupernet(
                    lattice, operations=operations, supernet=settings, backend=getattr(nas_wdan, backend)
                )
            )
        made[-1].double()
        with torch.no_grad():
            for parameter in made[-1].architecture():
                parameter.normal_()
        for module in made[-1].modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return made[0], made[1]


@pytest.mark.parametrize("supernet", [{}, {"partial_channels": 2, "edge_normalisation": True}], ids=["", "partial"])
@pytest.mark.parametrize(
    ("space", "operations"),
    [("nas-wdan", OF_NAS_WDAN), ("nas-wdan", ALONE), ("darts", OF_DARTS), ("darts", {"normal": ("my_sine",)})],
    ids=["nas-wdan", "nas-wdan alone", "darts", "darts alone"],
)
def test_an_operation_that_is_not_fused_gives_what_the_reference_gives(
    space: str, operations: dict[str, tuple[str, ...]], supernet: dict[str, Any]
) -> None:
    reference, fused = supernets(space, operations, **supernet)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    outputs = [each(x, all_heads=True) for each in (reference, fused)]
    for wanted, found in zip(*outputs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    for heads in outputs:
        torch.autograd.backward(torch.stack([(head * head.sin()).sum() for head in heads]).sum())
    own = 0
    for (name, wanted), found in zip(reference.named_parameters(), fused.parameters(), strict=True):
        assert (wanted.grad is None) == (found.grad is None), name
        if wanted.grad is not None and found.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-7, atol=1e-9, msg=name)
            own += name.endswith(".scale") and "my_" in name and bool(found.grad.abs().max() > 0)
    assert own or not any("my_scale" in names for names in operations.values())


def searched(space: str, operations: dict[str, tuple[str, ...]]) -> Genotype:
    """Returns a genotype whose alphas prefer the operations of users."""
    if space == "darts":
        made: Any = Darts(
            DartsSettings(stem="cifar", search_channel=4, init_channel=4, layers=3, operations=operations),
            in_channels=3,
            outputs=2,
        )
    else:
        made = NasWdan(NasWdanSettings(init_channel=4, operations=operations), in_channels=3, outputs=2)
    supernet = made.supernet(StageSettings(depth=3, batch=2), None)
    with torch.no_grad():
        for kind, alphas in supernet.alphas.items():
            for row, names in zip(alphas, supernet.candidates[kind], strict=True):
                row[[number for number, name in enumerate(names) if name in ("my_scale", "my_down")]] = 5.0
    genotype: Genotype = supernet.derive(DeriveSettings(), name="own", provenance={})
    return genotype


@pytest.mark.parametrize(("space", "operations"), [("nas-wdan", OF_NAS_WDAN), ("darts", OF_DARTS)])
def test_it_is_derived_written_trained_counted_and_sampled(space: str, operations: dict[str, tuple[str, ...]]) -> None:
    genotype = searched(space, operations)
    used = {name for cell in genotype.cells.values() for node in cell for name, _ in node}
    assert "my_scale" in used
    assert genotype.candidates == operations
    read = from_json(genotype.to_json(), origin="again")
    assert read == genotype
    assert space_settings(read).operations == operations  # type: ignore[attr-defined]
    network = create_model(read, outputs=2)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    scales = [
        parameter for name, parameter in network.named_parameters() if name.endswith(".scale") and "heads" not in name
    ]
    assert scales
    assert all(parameter.grad is not None for parameter in scales)
    assert count_flops(network.eval(), in_channels=3, size=32) > 0
    assert shipped(network, in_channels=3, size=32) is network  # no form for inference knows the operation
    sampled = {
        name
        for seed in range(20)
        for cell in random_genotype(read, seed=seed).cells.values()
        for node in cell
        for name, _ in node
    }
    up = {"up_cweight", "up_dep_conv", "up_conv", "up_dil_conv"} if space == "nas-wdan" else set()
    assert sampled == {name for names in operations.values() for name in names if name != "none"} | up


@pytest.mark.parametrize(("space", "settings"), [(NasWdan, NasWdanSettings()), (Darts, DartsSettings())])
def test_no_search_has_it_by_itself(space: Any, settings: Any) -> None:
    supernet = space(settings, in_channels=3, outputs=1).supernet(StageSettings(depth=4, batch=2), None)
    names = {name for rows in supernet.candidates.values() for row in rows for name in row}
    assert not any(name.startswith("my_") for name in names)
    genotype = supernet.derive(DeriveSettings(), name="usual", provenance={})
    assert genotype.candidates == {}
    assert "candidates" not in genotype.to_json()
    for seed in range(5):
        assert "my_" not in random_genotype(genotype, seed=seed).to_json()


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        ({"normal": ("none", "my_scael")}, "operations.normal names the unknown 'my_scael'. Did you mean 'my_scale'"),
        ({"nromal": ("conv",)}, "unknown set 'nromal'. Did you mean 'normal'"),
        ({"down": ("my_scale",)}, "operations.down names the unknown 'my_scale'"),
        ({"normal": ("none",)}, "at least one operation beside none"),
        ({"normal": ("conv", "conv")}, "each once"),
    ],
)
def test_candidates_that_there_are_not_are_refused(operations: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        NasWdanSettings(operations=operations)


def test_names_are_given_once_and_missing_registrations_are_named() -> None:
    with pytest.raises(ValueError, match="there is an operation 'conv' already"):
        register_operation("nas-wdan", "normal", "conv", Scaled)
    with pytest.raises(ValueError, match="nas-wdan has no set of operations 'reduce'"):
        register_operation("nas-wdan", "reduce", "my_conv", Scaled)
    genotype = searched("darts", OF_DARTS)
    with pytest.raises(GenotypeError, match=r"unknown normal operation 'gone'.*register_operation"):
        space_settings(replace(genotype, candidates={"normal": ("gone",)}))
