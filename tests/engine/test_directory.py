import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medarts.config import Recipe, fingerprint
from medarts.engine.directory import JOURNALS, RunDirectory
from medarts.errors import RunError
from medarts.system.files import refuse_links


@pytest.fixture
def run(tmp_path: Path, small_recipe: Recipe) -> RunDirectory:
    return RunDirectory.create(
        tmp_path / "run", small_recipe, kind="search", data_fingerprint="abc", environment={"cores": 2}
    )


def test_a_run_is_stamped_with_what_made_it(run: RunDirectory, small_recipe: Recipe) -> None:
    facts = RunDirectory.open(run.path, kind="search").facts
    assert facts["kind"] == "search"
    assert facts["name"] == "run"
    assert facts["recipe_fingerprint"] == fingerprint(small_recipe)
    assert facts["data_fingerprint"] == "abc"
    assert facts["environment"] == {"cores": 2}
    assert facts["finished"] is False
    assert RunDirectory.open(run.path).recipe == small_recipe


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path: Path, small_recipe: Recipe) -> None:
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", small_recipe, kind="train", data_fingerprint="")
    RunDirectory.create(tmp_path / "a" / "b", small_recipe, kind="train", data_fingerprint="")
    assert RunDirectory.open(tmp_path / "a" / "b").facts["kind"] == "train"


def test_create_refuses_another_run_and_leaves_it(run: RunDirectory, small_recipe: Recipe) -> None:
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunError, match="already holds another run") as caught:
        RunDirectory.create(run.path, small_recipe, kind="train", data_fingerprint="")
    assert f"--resume {run.path}" in caught.value.fix
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_create_refuses_a_folder_or_file_of_someone_else(tmp_path: Path, small_recipe: Recipe) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    for path, what in (("photos", "already holds files"), ("photos/cat.jpg", "is a file")):
        with pytest.raises(RunError, match=what) as caught:
            RunDirectory.create(tmp_path / path, small_recipe, kind="train", data_fingerprint="")
        assert "--resume" not in caught.value.fix  # there is nothing to resume


def test_who_is_at_work_is_named_rather_than_the_files_of_that_work(tmp_path: Path, small_recipe: Recipe) -> None:
    run = tmp_path / "run"
    with RunDirectory.reserved(run, "prune"), ThreadPoolExecutor() as other:
        (run / "steps").mkdir()
        found = other.submit(RunDirectory.create, run, small_recipe, kind="train", data_fingerprint="").exception()
    assert "Another process is at work" in str(found)


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="is not a run directory"):
            RunDirectory.open(path)


def test_open_refuses_another_kind(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"is a search run\. Give a train run"):
        RunDirectory.open(run.path, kind="train")


@pytest.mark.parametrize("text", ["", '{"kind": "sea', "\x00\x00"])
def test_open_says_that_a_stamp_is_damaged(run: RunDirectory, text: str) -> None:
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        RunDirectory.open(run.path, kind="search")


def test_other_data_are_refused(run: RunDirectory) -> None:
    run.check_unchanged("abc")
    with pytest.raises(RunError, match=r"data of .* have changed"):
        run.check_unchanged("abd")


def _manifest(*rows: str) -> str:
    names = "key,domain,patient,split,image,mask,slice,findings,image_digest,mask_digest"
    return "\n".join((names, *rows)) + "\n"


def test_data_that_changed_are_named(tmp_path: Path, small_recipe: Recipe) -> None:
    rows = [f"k{n},blobs,p,train,/old/k{n}.png,/old/m{n}.png,,,image{n},mask{n}" for n in range(6)]
    files = {"manifest.csv": _manifest(*rows)}
    run = RunDirectory.create(tmp_path / "run", small_recipe, kind="search", data_fingerprint="abc", files=files)
    moved = [row.replace("/old/", "/new/") for row in rows]
    changed = [row.replace("mask", "other") for row in moved]
    split = [moved[0].replace("train", "val"), *moved[1:]]
    for now, words in (
        ([moved[0], changed[1], *moved[2:]], "(1 file has other contents: /new/m1.png)."),
        ([moved[0], *changed[1:]], "(5 files have other contents: /new/m1.png, /new/m2.png, /new/m3.png and 2 more)."),
        (moved[2:], "(2 images are gone: k0, k1)."),
        ([*moved, moved[0].replace("k0", "k9")], "(1 image is new: k9)."),
        (split, "(1 image has another split, patient or findings: k0)."),
        (moved, "(they are read by other rules)."),
    ):
        with pytest.raises(RunError) as caught:
            run.check_unchanged("abd", manifest=_manifest(*now))
        assert caught.value.problem == f"The data of {run.path} have changed since it began {words}"
    run.check_unchanged("abc", manifest=_manifest(*moved))


def test_finish_adds_facts(run: RunDirectory) -> None:
    run.finish(seconds=3.5)
    assert run.facts["finished"] is True
    assert run.facts["seconds"] == 3.5
    assert run.facts["kind"] == "search"


def lines(run: RunDirectory, journal: str) -> list[object]:
    return [json.loads(line) for line in (run.path / journal).read_text(encoding="utf-8").splitlines()]


def test_journals_are_cut_back_to_a_point(run: RunDirectory) -> None:
    assert run.journal_lengths() == dict.fromkeys(JOURNALS, 0)
    run.append("metrics.jsonl", {"epoch": 0, "note": "µ"})
    run.append("timing.jsonl", {"seconds": 1.5})
    point = run.journal_lengths()
    run.append("metrics.jsonl", {"epoch": 1})
    run.append("metrics.jsonl", {"epoch": 2})
    run.append("architecture.jsonl", {"epoch": 2})
    (run.path / "metrics.jsonl").open("a").write('{"epo')  # a line that a killed process did not end
    run.cut_journals(point)
    assert lines(run, "metrics.jsonl") == [{"epoch": 0, "note": "µ"}]
    assert lines(run, "timing.jsonl") == [{"seconds": 1.5}]
    assert lines(run, "architecture.jsonl") == []
    run.append("metrics.jsonl", {"epoch": 1})
    assert lines(run, "metrics.jsonl") == [{"epoch": 0, "note": "µ"}, {"epoch": 1}]


def test_journals_without_a_point_begin_anew(run: RunDirectory) -> None:
    run.append("metrics.jsonl", {"epoch": 0})
    run.cut_journals({})
    assert run.journal_lengths()["metrics.jsonl"] == 0


@pytest.mark.parametrize("lost", ["lines", "file"])
def test_a_journal_that_lost_lines_is_refused(run: RunDirectory, lost: str) -> None:
    """Growing it to its old length would fill it with zeros."""
    run.append("metrics.jsonl", {"epoch": 0})
    first = run.journal_lengths()
    run.append("metrics.jsonl", {"epoch": 1})
    point = run.journal_lengths()
    if lost == "lines":
        run.cut_journals(first)
    else:
        (run.path / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl lacks lines"):
        run.cut_journals(point)


def test_a_journal_with_another_digit_is_refused(run: RunDirectory) -> None:
    run.append("metrics.jsonl", {"epoch": 0, "val_dice": 0.5})
    run.append("timing.jsonl", {"seconds": 1.5})
    lengths, digests = run.journal_lengths(), run.journal_digests()
    run.append("metrics.jsonl", {"epoch": 1})
    run.cut_journals(lengths, digests)
    for name in ("timing.jsonl", "metrics.jsonl"):
        path = run.path / name
        path.write_text(path.read_text(encoding="utf-8").replace("5", "7"), encoding="utf-8")
        if name == "timing.jsonl":  # seconds are others in a resumed run
            run.cut_journals(lengths, digests)
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged: a line is not as the run wrote it"):
        run.cut_journals(lengths, digests)


@pytest.mark.parametrize(
    ("journal", "kept"),
    [
        ('{"epoch": 0}\n{"epoch": 1}\n', 2),
        ('{"epoch": 0}\n{"epo', 1),
        ('{"epoch": 0}\n{"epoch": 1}', 1),  # nothing says that it is whole
        ("", 0),
    ],
)
def test_a_half_last_line_of_a_journal_is_dropped(run: RunDirectory, journal: str, kept: int) -> None:
    (run.path / "metrics.jsonl").write_text(journal)
    assert run.read_journal("metrics.jsonl") == [{"epoch": epoch} for epoch in range(kept)]
    assert run.journal_lengths()["metrics.jsonl"] == kept
    assert run.read_journal("timing.jsonl") == []


@pytest.mark.parametrize("damaged", ["{", "\x00\x00", "[1]", '{"epoch": 0}{"epoch": 1}', "\xff", "[" * 100_000])
def test_a_damaged_line_of_a_journal_is_named(run: RunDirectory, damaged: str) -> None:
    (run.path / "metrics.jsonl").write_bytes(b'{"epoch": 0}\n' + damaged.encode("latin-1") + b'\n{"epoch": 2}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged in line 2"):
        run.read_journal("metrics.jsonl")


@pytest.mark.parametrize("spent", ["null", "[1]", '"x"', '{"steps": "x"}', '{"steps": true}'])
def test_a_line_without_the_numbers_of_its_parts_is_named(run: RunDirectory, spent: str) -> None:
    (run.path / "timing.jsonl").write_text(f'{{}}\n{{"spent": {{"steps": 1.5}}}}\n{{"spent": {spent}}}\n')
    with pytest.raises(RunError, match=r"timing\.jsonl is damaged in line 3 \(it has no numbers for spent\)"):
        run.read_journal("timing.jsonl", parts=("spent",))


@pytest.mark.parametrize("text", ["[]", "3", '"run"', "{}", '{"kind": "search"}'])
def test_a_stamp_that_is_none_is_damaged(run: RunDirectory, text: str) -> None:
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize(
    "key",
    ["kind", "name", "created", "medarts", "recipe", "recipe_fingerprint", "data_fingerprint", "finished", "files"],
)
def test_a_stamp_without_a_key_is_named(run: RunDirectory, key: str) -> None:
    facts = dict(run.facts)
    del facts[key]
    run.write_json("run.json", facts)
    with pytest.raises(RunError, match=rf"run\.json is damaged: it lacks {key}\."):
        RunDirectory.open(run.path)


TEXT = ("", "text")
CHANGE = {"field": "train.epochs", "before": 2, "after": 4, "position": [1, 0], "time": "2026"}
RIGHT: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("created", "medarts", "recipe_fingerprint", "data_fingerprint"), TEXT),
    **dict.fromkeys(("name", "network"), ("text",)),
    "format": (3,),
    "kind": (),
    "recipe": ({}, {"a": 1}),
    "finished": (False, True),
    "files": ({},),
    "environment": ({}, {"a": 1}),
    "weights_fingerprint": (*TEXT, None),
    "initial": (None,),
    "changes": ([],),
}
"""Of the values below those that a key may have."""
VALUES = (None, True, 3, 1.5, "", "text", [], [3], {}, {"a": 1})
WRONG = [
    *((key, value) for key, right in RIGHT.items() for value in VALUES if value not in right),
    *(("environment", {"threads": value}) for value in (None, 1.5, "2", True, -1, [])),
    *(("initial", {"network": "unet", "tensors": 3, "replaced": value}) for value in VALUES[:5]),
    *(("changes", [{**CHANGE, key: value}]) for key in ("field", "position", "time") for value in (3, {}, ["x"], [])),
    ("changes", [{}]),
    ("name", " "),
    ("files", {"manifest.csv": 3}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_stamp_with_a_value_of_another_type_is_named(run: RunDirectory, key: str, value: object) -> None:
    run.write_json("run.json", run.facts | {key: value})
    with pytest.raises(RunError, match=rf"run\.json is damaged: {key}\."):
        RunDirectory.open(run.path)


def test_a_run_of_another_format_is_named(run: RunDirectory) -> None:
    run.write_json("run.json", run.facts | {"format": 7})
    with pytest.raises(RunError, match=r"run\.json has format 7, but this medarts reads format 1\. Start a new run"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize("values", [{}, {"seed": 1}])
def test_damage_of_the_recipe_in_the_stamp_is_not_blamed_on_its_file(run: RunDirectory, values: dict[str, int]) -> None:
    run.write_json("run.json", run.facts | {"recipe": values})
    with pytest.raises(RunError, match=r"run\.json is damaged: recipe\."):
        _ = run.recipe


def test_of_many_edited_values_ten_are_named(run: RunDirectory) -> None:
    differences = [(f"field.{number}", "x" * 1000, number) for number in range(25)]
    text = str(run.was_edited(differences))
    assert "field.9: " in text
    assert "field.10: " not in text
    assert "; and 15 more)" in text
    assert len(text) < 1500


def test_a_key_that_a_file_lacks_is_named(run: RunDirectory) -> None:
    run.write_json("summary.json", {"score": "dice"})
    with pytest.raises(RunError, match=r"summary\.json is damaged: it lacks best_score"):
        run.read_json("summary.json")["best_score"]
    with pytest.raises(RunError, match=r"cost\.json is missing\. Copy the run again\."):
        run.read_json("cost.json")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("lr=0.1", "lr-0.1"), ("my search (1)", "my search-1"), ("a+b", "a-b"), ("#1", "1"), ("x@y", "x-y"),
     (".hidden", "hidden"), ("-r", "r"), ("l\udce9sion", "l-sion")],
)  # fmt: skip
def test_any_folder_gives_a_run_with_a_name(folder: str, name: str, tmp_path: Path, small_recipe: Recipe) -> None:
    manifest = f"{folder}.png\n"
    run = RunDirectory.create(
        tmp_path / folder, small_recipe, kind="train", data_fingerprint="", files={"manifest.csv": manifest}
    )
    assert run.facts["name"] == name
    assert (run.path / "manifest.csv").read_text(encoding="utf-8", errors="surrogateescape") == manifest


def test_the_current_folder_can_be_a_run(tmp_path: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert RunDirectory.create(Path(), small_recipe, kind="train", data_fingerprint="").facts["name"] == "here"


def test_a_reserved_folder_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a" / "b"):
        with RunDirectory.reserved(path, "search"):
            assert path.is_dir()
            assert (path / ".lock").exists()
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_what_a_killed_process_left_before_the_run_began_is_no_run(tmp_path: Path, small_recipe: Recipe) -> None:
    for name in (".lock", ".owner.json", ".unfinished-.owner.json", "recipe.yaml", ".unfinished-run.json"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("")
    run = RunDirectory.create(tmp_path / "run", small_recipe, kind="train", data_fingerprint="")
    assert sorted(path.name for path in run.path.iterdir()) == ["recipe.yaml", "run.json"]


def test_only_a_run_without_a_checkpoint_is_discarded(run: RunDirectory) -> None:
    run.append("metrics.jsonl", {"epoch": 0})
    (run.checkpoints / "last-000001-000000").mkdir(parents=True)
    run.discard()
    assert (run.path / "run.json").exists()
    (run.checkpoints / "last-000001-000000").rmdir()
    run.discard()
    assert list(run.path.iterdir()) == []


@pytest.mark.parametrize("link", ["metrics.jsonl", ".lock", "checkpoints", "scores/test/scores.json", "a.txt"])
def test_a_run_with_links_is_not_written(run: RunDirectory, link: str, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("mine\n")
    (run.path / link).parent.mkdir(parents=True, exist_ok=True)
    (run.path / link).symlink_to(target)
    with pytest.raises(RunError, match=rf"{link} is a symbolic link to .*mine"), run.at_work("search"):
        pass
    with pytest.raises(RunError, match="symbolic link"):
        run.append(link, {"epoch": 0}) if link == "metrics.jsonl" else refuse_links(run.path)
    assert target.read_text() == "mine\n"
    assert not (run.path / ".owner.json").exists()
