"""What a comparison learns from the file of a study, and from its folder."""

import json
from pathlib import Path
from typing import Any

import yaml

from medarts.config.study import Study, load_study, search_recipe
from medarts.engine.directory import RunDirectory
from medarts.study.comparing import design_of
from medarts.study.jobs import Layout


def study(folder: Path, *networks: dict[str, Any], **recipe: Any) -> Study:
    data = {"sources": [{"kind": "folder", "path": "/data/a", "name": "a"}], "size": 32}
    content = {"recipe": {"data": data, **recipe}, "networks": networks, "trained_on": [{"data": "a"}]}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return load_study(folder / "study.yaml")


UNET = {"model": {"name": "unet", "width": 8}}
BUDGET = {"parameters": 80_000}


def test_random_networks_within_the_budget_are_the_controls_of_what_was_searched_once(tmp_path: Path) -> None:
    once, random = {"name": "once", "searched_on": "a"}, {"random": 2}
    often = {"name": "often", "searched_on": "a", "search_seeds": [0, 1], "changes": ["search.lr=0.1"]}
    twice = [{"name": f"s{seed}", "searched_on": "a", "changes": [f"seed={seed}", "search.lr=0.3"]} for seed in (1, 2)]
    known = {"name": "known", "genotype": "layer7_double_deep"}
    more = {"name": "more", "random": 1}
    design = design_of(study(tmp_path, once, often, *twice, known, UNET, random, more, budget=BUDGET), Layout(tmp_path))
    sampled = ("random-1", "random-2", "more-1")
    assert design.controls == {"once": sampled, "known": sampled}, "methods are compared with random as a method"
    assert [*design.methods.values()] == [("often-1", "often-2"), ("random-1", "random-2"), ("more-1",), ("s1", "s2")]
    assert design_of(study(tmp_path, once, UNET, budget=BUDGET), Layout(tmp_path)).controls == {}
    like = design_of(study(tmp_path, once, known, {"random": 2, "like": "once"}), Layout(tmp_path))
    assert like.controls == {"once": ("random-1", "random-2")}


def test_genotypes_that_are_given_can_be_one_method(tmp_path: Path) -> None:
    given = [{"name": f"pool-{k}", "genotype": "layer7_double_deep", "method": "pool"} for k in (1, 2)]
    known = {"name": "known", "genotype": "layer7_double_deep"}
    one = study(tmp_path, *given, known, UNET, {"random": 2}, budget=BUDGET)
    design = design_of(one, Layout(tmp_path))
    assert design.methods == {"pool": ("pool-1", "pool-2"), "random": ("random-1", "random-2")}
    assert [*design.controls] == ["known"]
    (only_pool,) = (group.model_copy(update={"networks": ("pool",)}) for group in one.trained_on)
    assert one.networks_of(only_pool) == ("pool-1", "pool-2")


def test_the_time_of_a_search_is_that_of_the_choice_by_every_method(tmp_path: Path) -> None:
    one = study(
        tmp_path,
        {"name": "supernet", "searched_on": "a"},
        {"name": "pool", "searched_on": "a", "changes": ["search.method=pool"]},
        {"name": "begun", "searched_on": "a", "changes": ["search.lr=0.1"]},
        train={"epochs": 100},
    )
    epoch = {"epochs": 1, "seconds": 20.0}
    timing: dict[str, list[dict[str, Any]]] = {
        "supernet": [{"stage": 0, "epoch": number, "seconds": 2.0, "peak_memory_mb": 1.0} for number in range(3)],
        "pool": [{"supernet": 1, **epoch}, {"candidate": "c", "to": 1, **epoch}, {"retrained": 1, **epoch}],
        "begun": [{"stage": 0, "epoch": 0, "seconds": 2.0, "peak_memory_mb": 1.0}],
    }
    for name, lines in timing.items():
        path, recipe = Layout(tmp_path).search(name).run, search_recipe(one, name)
        run = RunDirectory.create(path, recipe, kind="search", data_fingerprint="", environment={})
        (path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if name != "begun":
            run.finish()
    assert design_of(one, Layout(tmp_path)).search_seconds == {"supernet": 6.0, "pool": 40.0}
