"""Which runs are one network, and which may not be compared."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from medarts.comparison.candidates import (
    Candidate,
    check_comparable,
    group_runs,
    repeats_by_provenance,
    training_seconds,
)
from medarts.config import Recipe, apply_overrides, parse
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.models.pruned import Pruned
from medarts.models.unet import UNetSettings
from medarts.network.structure import Structure
from medarts.pruning.record import PruningRecord, Size, Step
from medarts.spaces.genotype import Genotype, load_genotype

MANIFEST = """key,domain,patient,split,image,mask,findings
a,blobs,p0,train,{root}/a.png,{root}/a_mask.png,
b,blobs,p1,val,{root}/b.png,{root}/b_mask.png,
c,blobs,p2,test,{root}/c.png,{root}/c_mask.png,
"""
ZOO = "layer7_double_deep"


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


class Maker:
    """Makes run directories as training leaves them, without training."""

    def __init__(self, recipe: Recipe, root: Path) -> None:
        self.recipe, self.root = recipe, root

    def __call__(
        self,
        name: str,
        *changes: str,
        genotype: Genotype | None = None,
        manifest: str = MANIFEST,
        data: str = "0123",
        files: Mapping[str, str] = MappingProxyType({}),
        **facts: Any,
    ) -> Path:
        recipe = changed(self.recipe, *([] if genotype else ["train.model={name: unet}"]), *changes)
        files = {**files, "manifest.csv": manifest.format(root=self.root / name)}
        if genotype is not None:
            files["genotype.json"] = genotype.to_json()
        network = genotype.name if genotype else recipe.train.model.name
        run = RunDirectory.create(
            self.root / name,
            recipe,
            **({"kind": "train", "network": network} | facts),
            data_fingerprint=data,
            files=files,
        )
        if facts.get("finished", True):
            run.finish()
        return run.path

    def tuned(self, name: str, *changes: str, weights: str = "w0", **more: Any) -> Path:
        """Makes a run that began with trained weights."""
        initial = {"network": "unet", "tensors": 4, "replaced": []}
        return self(name, *changes, weights_fingerprint=weights, initial=initial, **more)

    def pruned(
        self, name: str, *changes: str, weights: str = "w0", method: str = "l1", epochs: int = 2, **asked: Any
    ) -> Path:
        """Makes the run that a pruning ends with."""
        asked = {"method": {"name": method}, "keep": {"flops": 0.5}, "steps": 1, "epochs": epochs, **asked}
        recipe = changed(self.recipe, *changes)
        structure = Structure(layers={"encoder.0.0.conv": {"out": 10 + recipe.seed}})  # others for every seed
        network = Pruned(f"unet-{method}-50", UNetSettings(), structure, (asked,))
        size = Size(parameters=9, flops=9, channels={})
        step = Step(kept=0.5, size=size, before=0.8, cut=0.4, sparse_seconds=3.0, cut_seconds=2.0, fine_seconds=30.0)
        record = PruningRecord(
            network="unet", weights=weights, method=asked["method"], keep=asked["keep"], score="dice", original=0.8,
            size=size, steps=(step, step),
        )  # fmt: skip
        files = {"structure.json": network.to_json(), "pruning.json": record.to_json()}
        changes = (f"train.epochs={epochs}", *changes)
        return self.tuned(name, *changes, weights=f"left for {name}", network=network.name, files=files)


@pytest.fixture
def make(small_recipe: Recipe, tmp_path: Path) -> Maker:
    return Maker(small_recipe, tmp_path)


def compared(*paths: Path, **options: bool) -> tuple[Candidate, ...]:
    candidates = group_runs(paths)
    check_comparable(candidates, **options)
    return candidates


def test_runs_of_one_architecture_are_one_network_with_several_seeds(make):
    genotype = load_genotype(ZOO)
    paths = [
        make("u1", "seed=1"),
        make("g0", genotype=genotype),
        make("u0"),
        make("g1", "seed=1", genotype=replace(genotype, name="renamed", provenance={})),
        make("other", genotype=genotype.with_settings(init_channel=8)),
    ]
    unet, first, second = group_runs(paths)
    assert [(one.name, one.seeds) for one in (unet, first, second)] == [
        ("unet", (0, 1)),
        (f"{ZOO} (g0)", (0, 1)),
        (f"{ZOO} (other)", (0,)),
    ]
    assert [run.path for run in unet.runs] == [paths[2], paths[0]]
    assert unet.architecture.width == 64
    assert first.architecture == genotype


def test_a_network_has_of_its_own_what_is_declared_and_nothing_else(make):
    unet = make("unet", "train.lr=0.02", "train.model={name: unet}")
    plain, other = (make(name, f"train.model={{name: {name}}}") for name in ("unetpp", "attention-unet"))
    candidates, own = group_runs([unet, plain, other]), {"unet": ["train.lr=0.02"]}
    check_comparable(candidates, own=own)
    check_comparable(candidates[::-1], own=own)
    with pytest.raises(RunError, match=r"train\.lr is 0\.02 in .*unet, but 0\.004 in"):
        check_comparable(candidates)
    with pytest.raises(RunError, match=r"train\.lr is 0\.02 in .*unet, but 0\.03 in its study"):
        check_comparable(candidates, own={"unet": ["train.lr=0.03"]})
    with pytest.raises(RunError, match=r"train\.lr is 0\.004 in .*, but 0\.02 in"):
        check_comparable(candidates, own={"unet": ["train.ema=0.0"]})
    # That the first network has a rate of its own does not let the others differ in it.
    third = make("r2unet", "train.model={name: r2unet}", "train.lr=0.5")
    with pytest.raises(RunError, match=r"train\.lr is 0\.004 in .*unetpp, but 0\.5 in .*r2unet"):
        check_comparable(group_runs([unet, plain, third]), own=own)


def test_networks_of_one_name_get_what_tells_their_paths_apart(make):
    wide = make("wide/seed-0", "train.model.width=32")
    narrow = make("narrow/seed-0", "train.model.width=16")
    other = make("other/seed-0", "train.model={name: unetpp}")
    names = [one.name for one in group_runs([wide, narrow, other])]
    assert names == ["unet (wide/seed-0)", "unet (narrow/seed-0)", "unetpp"]
    assert [one.name for one in group_runs([make("w", "train.model.width=8"), make("n", "train.model.width=4")])] == [
        "unet (w)",
        "unet (n)",
    ]


def test_kinds(make):
    published = load_genotype(ZOO)
    genotypes = {
        "published": published.with_settings(init_channel=8),
        "random": replace(published, provenance={"source": "random", "seed": 3}),
        "searched": replace(published, provenance={"recipe_fingerprint": "0123", "seed": 0, "stage": 1}),
    }
    for kind, genotype in genotypes.items():
        assert group_runs([make(kind, genotype=genotype)])[0].kind == kind
    assert group_runs([make("hand")])[0].kind == "baseline"


def test_searches_that_differ_in_their_seed_alone_are_known_by_provenance(make):
    published = load_genotype(ZOO)
    told = {
        "recipe_fingerprint_without_seed": "ab", "recipe_fingerprint": "cd", "data_fingerprint": "ef",
        "stage": 1, "epoch": 4,
    }  # fmt: skip
    cells = [dict(published.cells, normal=published.cells["normal"][: n + 1]) for n in range(4)]

    def searched(name: str, number: int, seeds: int = 1, **changes: Any) -> list[Path]:
        provenance = {name: value for name, value in {**told, "seed": number, **changes}.items() if value is not None}
        genotype = replace(published, name=name, cells=cells[number], provenance=provenance)
        return [make(f"{name}/{seed}", f"seed={seed}", genotype=genotype) for seed in range(seeds)]

    three = group_runs([run for number in range(3) for run in searched(f"s{number}", number, seeds=2)])
    assert [(one.name, one.seeds) for one in three] == [(f"s{number}", (0, 1)) for number in range(3)]
    others: list[dict[str, Any]] = [
        {"recipe_fingerprint_without_seed": "xy"},
        {"data_fingerprint": "xy"},
        {"epoch": 2},
        {"recipe_fingerprint_without_seed": None},
    ]
    runs = [run for place, changes in enumerate(others) for run in searched(f"other-{place}", 3, **changes)]
    rest = [group_runs([run])[0] for run in (*runs, make("unet"))]
    assert repeats_by_provenance([*three, *rest]) == [("s0", "s1", "s2")]
    assert repeats_by_provenance([*three, *group_runs(searched("twice", 3, seed=0))]) == []
    assert repeats_by_provenance([three[0], *rest]) == []


def test_one_network_twice_with_one_seed_is_refused(make):
    one, two = make("one"), make("two")
    with pytest.raises(RunError, match=rf"{one} and {two} train the same network with the same seed 0\. Leave one"):
        check_comparable(group_runs([one, two]))
    with pytest.raises(RunError, match=r"one is given twice\. Give every run once"):
        check_comparable(group_runs([one, one]), same_seeds=False)
    with pytest.raises(RunError, match="no run to compare"):
        group_runs([])


def test_that_one_network_is_trained_on_other_splits_is_told_before_that_it_is_there_twice(make):
    one, two = make("one"), make("two")
    manifest = two / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("train", "test", 1))
    with pytest.raises(RunError, match=r"The split of .* is 'train' in .*, but 'test' in "):
        check_comparable(group_runs([one, two]))


def test_what_is_the_network_or_the_place_of_work_may_differ(make):
    first = make("first", "note=hello", "compute.threads=3", "derive.top_k=1", "search.lr=0.1", "data.cache=/elsewhere")
    second = make("second", "train.model.width=16", "data.sources.0.path=/mnt/blobs", "compute.tensorboard=true")
    third = make("third", "space.init_channel=8", genotype=load_genotype(ZOO))
    assert len(compared(first, second, third)) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.epochs=3", "train.epochs is 2 in {0}, but 3 in {1}. Compare runs that were trained with one recipe."),
        ("train.optimizer=adamw", "train.optimizer is 'sgd' in {0}, but 'adamw' in {1}."),
        ("data.size=64", "data.size is 32 in {0}, but 64 in {1}."),
        ("data.augmentation.rotate=10", "data.augmentation.rotate is 0.0 in {0}, but 10.0 in {1}."),
        ("data.sources.0.fractions=[0.2, 0.2]", "data.sources.0.fractions.0 is 0.1 in {0}, but 0.2 in {1}."),
        ("data.sources.0.labels={1: 1}", "data.sources.0.labels is None in {0}, but {{'1': 1}} in {1}."),
        (
            "data.sources=[{kind: isic, path: /a}, {kind: cvc, path: /b}]",
            "data.sources.0.kind is 'folder' in {0}, but 'isic' in {1}.",
        ),
        ("evaluation.threshold=0.4", "evaluation.threshold is 0.5 in {0}, but 0.4 in {1}."),
        ("compute.precision=bf16", "compute.precision is 'fp32' in {0}, but 'bf16' in {1}."),
    ],
)
def test_other_recipes_are_refused(make, change, said):
    one, two = make("one"), make("two", change, "train.model.width=16")
    with pytest.raises(RunError) as error:
        compared(one, two)
    assert str(error.value).startswith(said.format(one, two))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("b,blobs,p1,val", "b,blobs,p1,test", "The split of b of blobs is 'val' in {0}, but 'test' in {1}."),
        ("p2,test", "p1,test", "The patient of c of blobs is 'p2' in {0}, but 'p1' in {1}."),
        ("c,blobs", "d,blobs", "c of blobs is among the images of {0}, not of {1}."),
        ("\na,blobs", "\na0,blobs,p9,test,x,y,\na,blobs", "a0 of blobs is among the images of {1}, not of {0}."),
    ],
)
def test_other_splits_are_refused(make, old, new, said):
    one, two = make("one"), make("two", "train.model.width=16", manifest=MANIFEST.replace(old, new))
    with pytest.raises(RunError) as error:
        compared(one, two)
    assert str(error.value).startswith(said.format(one, two))
    assert "the same splits.csv" in error.value.fix


def test_other_files_are_refused(make):
    one, two = make("one"), make("two", "train.model.width=16", data="4567")
    with pytest.raises(
        RunError, match=rf"data of {one} and {two} differ \(0123 and 4567\): they were read by other rules"
    ):
        compared(one, two)


def test_other_seeds_are_refused(make):
    paths = [make("one"), make("two", "seed=1"), make("three", "train.model.width=16", "seed=1")]
    with pytest.raises(RunError, match=r"seeds of unet \(one\) are 0, 1 .* but those of unet \(three\) are 1"):
        compared(*paths)
    assert len(compared(*paths, same_seeds=False)) == 2


def test_runs_that_cannot_be_compared(make, tmp_path):
    with pytest.raises(RunError, match=r"is a search run\. Give a train run"):
        group_runs([make("one"), make("searched", kind="search")])
    with pytest.raises(RunError, match="is not a run directory"):
        group_runs([tmp_path])
    unfinished = make("unfinished", "train.model.width=16", finished=False)
    with pytest.raises(RunError, match=rf"{unfinished} has not finished\. .*train --resume {unfinished}"):
        compared(make("two"), unfinished)
    broken = make("broken", "train.model.width=8")
    (broken / "manifest.csv").write_text("key,domain\na,b\n")
    with pytest.raises(RunError, match=r"manifest.csv is damaged"):
        compared(broken, make("three"))


def test_what_networks_began_from(make, finding_recipe):
    make.recipe = finding_recipe
    trained = "train.model={name: chexnet, weights: /models/densenet121.pth}"
    manifest = MANIFEST.replace("_mask.png,", "_mask.png,x")
    runs = [
        make(f"{name}-{seed}", model, f"seed={seed}", manifest=manifest, weights_fingerprint=weights)
        for name, model, weights in (("trained", trained, "aa"), ("scratch", "train.model={name: chexnet}", None))
        for seed in (0, 1)
    ]
    for run in runs:  # all on the same files
        (run / "manifest.csv").write_text(manifest)
        RunDirectory(run).finish()
    candidates = compared(*runs)  # weights may differ between networks, which is told
    assert [candidate.began_from for candidate in candidates] == ["densenet121.pth", None]
    facts = RunDirectory(runs[1]).facts
    RunDirectory(runs[1]).write_json("run.json", facts | {"weights_fingerprint": "bb"})
    says = rf"initial weights of chexnet .* have fingerprint aa in {runs[0]}, but bb in {runs[1]}\. Start all seeds"
    with pytest.raises(RunError, match=says):
        compared(*runs)


def extended(path: Path, *changes: dict[str, Any]) -> Path:
    run = RunDirectory(path)
    run.write_json("run.json", run.facts | {"changes": [{"time": "2026", **change} for change in changes]})
    return path


LONGER = {"field": "train.epochs", "before": 1, "after": 2, "position": [1, 0]}
PARTS = {"field": "train.accumulate", "before": 2, "after": 1, "position": [0, 3]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (LONGER, r"train.epochs was unchanged in .*one, but 1 -> 2 after epoch 1 in .*two"),
        (PARTS, r"train.accumulate was .* in .*one, but 2 -> 1 after epoch 0, step 3 in .*two"),
    ],
)
def test_a_run_that_was_extended_is_no_run_of_that_length(make, change, says):
    one, two = make("one"), extended(make("two", "seed=1"), change)
    with pytest.raises(RunError, match=says):
        compared(one, two, same_seeds=False)
    moved = {"field": "data.sources.0.path", "before": "a", "after": "b", "position": [1, 0]}
    compared(extended(one, change), two)
    compared(extended(one, moved), extended(two, {**change, "position": None}))  # changed before the first step


def test_a_training_in_which_memory_ran_out_is_named(make, capsys):
    split = {"of": "training", "before": 1, "after": 2, "position": [0, 3]}
    one, two = make("one", splits=[split]), make("two", "seed=1")
    compared(one, two, same_seeds=False)
    assert f"Memory ran out in {one}: batches were in more parts" in " ".join(capsys.readouterr().err.split())
    compared(one, make("three", "seed=1", splits=[split]), same_seeds=False)
    assert "Memory" not in capsys.readouterr().err


def test_files_that_differ_are_named(make):
    rows = MANIFEST.splitlines()
    texts = [
        "\n".join((rows[0] + ",image_digest,mask_digest", *(f"{row},{row[0]}{mark},m" for row in rows[1:]))) + "\n"
        for mark in ("1", "2")
    ]
    one, two = make("one", manifest=texts[0]), make("two", "seed=1", manifest=texts[1], data="4567")
    with pytest.raises(RunError, match=r"3 files had other contents: .*two/a\.png, .*two/b\.png, .*two/c\.png\."):
        compared(one, two)


def test_the_order_of_runs_does_not_matter_where_some_were_pruned(make):
    cut, longer = make.pruned("cut", "train.finetune_lr=0.3", epochs=4), make.pruned("longer", method="fpgm", epochs=6)
    one, other = make("one"), make("other", "train.epochs=3", "train.model.width=16")
    compared(cut, one, longer)
    compared(longer, cut)
    for runs in ((cut, one, other), (one, other, cut), (one, cut, other)):
        with pytest.raises(RunError, match=r"train\.epochs is 2 in .*one, but 3 in .*other\."):
            compared(*runs)
    slower = make.pruned("slower", "train.lr=0.5", method="taylor")
    for paths in ([cut, one, slower], [slower, one], [one, slower], [cut, slower]):
        with pytest.raises(RunError, match=r"train\.lr is .* in "):
            compared(*paths)
    compared(make.tuned("tuned"), extended(cut, LONGER))  # pruned ones have epochs of their own
    with pytest.raises(RunError, match=r"train\.epochs was 1 -> 2 after epoch 1 in .*cut, but unchanged in .*longer"):
        compared(one, cut, longer)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 4},
        {"sparse_epochs": 4},
        {"finetune_lr": 0.3},
        {"steps": 2},
        {"keep": {"flops": 0.3}},
        {"method": "fpgm"},
    ],
)
def test_prunings_that_were_asked_for_otherwise_are_other_networks(make, changes):
    asked = {"sparse_epochs": 2, "finetune_lr": 0.1}
    one, other = make.pruned("one", **asked), make.pruned("other", **{**asked, **changes})
    assert len(compared(one, other)) == 2
    (alike,) = compared(one, make.pruned("again", "seed=1", weights="w1", **asked))
    assert (alike.seeds, alike.kind, alike.began_from) == ((0, 1), "pruned", "unet (w0)")


def test_fine_tuned_networks_that_were_pruned_alike_are_seeds_of_one(make):
    pruned = [make.pruned(f"l1-{seed}", f"seed={seed}", weights=f"w{seed}") for seed in (0, 1)]
    controls = [make.tuned(f"whole-{seed}", f"seed={seed}", weights=f"w{seed}") for seed in (0, 1)]
    both = compared(*controls, *pruned)
    assert [(one.name, one.seeds) for one in both] == [("unet", (0, 1)), ("unet-l1-50", (0, 1))]
    assert len(group_runs(controls)) == 2  # of which nothing says that they belong together
    assert len(group_runs([*pruned, make.tuned("else", weights="w7"), controls[0]])) == 3


def test_training_of_a_pruned_network_is_all_that_it_took(make):
    whole, pruned = make("whole"), make.pruned("pruned")
    for path in (whole, pruned):
        for seconds in (10.0, 20.0):
            RunDirectory(path).append("timing.jsonl", {"seconds": seconds})
    assert training_seconds(RunDirectory(whole)) == 30
    assert training_seconds(RunDirectory(pruned)) == 30 + 2 * (3 + 2) + 30
