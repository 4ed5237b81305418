"""From a folder to a recipe that trains, for every layout, without an edited line."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.layouts_of_tests import CASES, LAYOUTS, put
from tests.proposal.recipes_of_tests import NO_BUDGET, SMALLEST

import medarts
from medarts import terminal
from medarts.config import DataSettings, load
from medarts.data.opening import open_data, open_manifest
from medarts.engine.engine import Trial
from medarts.errors import DataError, RecipeError
from medarts.proposal import Question
from medarts.proposal.describing import described


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_searched_and_trained_on_as_it_is(tmp_path, monkeypatch, layout):
    LAYOUTS[layout](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    found = medarts.init("data", measure=False)
    recipe = load(Path("recipe.yaml"))
    assert recipe == found.recipe
    data = of_one_training(recipe.data)
    samples = open_manifest(data, needs=("train", "val", "test")).samples
    count = {"split_folders": 8, "nnunet": 6, "decathlon": 6, "bids": 6, "dicom": 18}.get(layout, len(CASES))
    assert len({sample.image for sample in samples}) == count
    searched = medarts.search("recipe.yaml", changes=SMALLEST)
    one_fold = ["data.fold=1"] if recipe.data.is_divided else []
    assert medarts.train(searched, changes=one_fold).facts["finished"]


def test_the_recipe_says_what_was_understood(tmp_path, monkeypatch):
    LAYOUTS["nnunet"](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    recipe = medarts.init("data", measure=False).recipe
    (source,) = recipe.data.sources
    assert source.model_dump()["labels"] == {1: "liver", 2: "tumour"}
    assert (recipe.data.classes, recipe.data.in_channels, recipe.data.size) == (("liver", "tumour"), 2, 32)
    assert (recipe.search.method, recipe.train.loss.name) == ("random", "ce_dice")
    assert recipe.space.model_dump()["choices"]["depth"] == (3, 4)  # a lattice of 5 would halve 32 pixels to one
    text = Path("recipe.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert json.loads(Path("recipe.schema.json").read_text())["required"] == ["data"]
    assert "# epochs of 9 training images" in text


def test_classes_without_a_file_are_taken_as_absent_and_said(tmp_path, monkeypatch, capsys):
    LAYOUTS["folder_per_class"](tmp_path / "data")
    for name in CASES[:5]:
        (tmp_path / "data" / "masks" / "liver" / "{}_{}.png".format(*name)).unlink()
    monkeypatch.chdir(tmp_path)
    (look,) = (found := medarts.init("data", measure=False)).looks
    assert look.absent == ("liver in 5 of 12",)
    terminal.show_proposal(found, Path("recipe.yaml"))
    assert "liver in 5 of 12 images: taken as images that do not show it" in " ".join(capsys.readouterr().out.split())
    assert "absent: empty" in Path("recipe.yaml").read_text()
    store = open_data(of_one_training(found.recipe.data), needs=("train",))
    liver = found.recipe.data.class_names.index("liver") + 1
    shown = [bool((store.targets[np.array([n])] == liver).any()) for n in range(len(CASES))]
    assert shown == [False] * 5 + [True] * 7


def grey(root: Path, masks: list[np.ndarray]) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (len(masks), 32, 32), dtype=np.uint8)
    for n, mask in enumerate(masks):
        put(root / "images" / f"{n}.png", noise[n])
        put(root / "masks" / f"{n}.png", mask)
    return root


def square(*values: int) -> np.ndarray:
    mask = np.zeros((32, 32), np.uint8)
    for n, value in enumerate(values):
        mask[8 * n : 8 * n + 8, :8] = value
    return mask


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        ((255,), None, 1),
        ((1,), None, 1),
        ((38,), {38: 1}, 1),
        ((85, 170), {85: 1, 170: 2}, 3),
        ((1, 2, 255), {1: 1, 2: 2, 255: "ignore"}, 3),
    ],
)
def test_classes_are_the_values_of_masks(tmp_path, monkeypatch, values, labels, classes):
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data", [square(*values)] * 6)
    data = medarts.init("data", measure=False).recipe.data
    assert (data.sources[0].model_dump()["labels"], data.outputs) == (labels, classes)


def of_one_training(data: DataSettings) -> DataSettings:
    return data.of_fold(1) if data.is_divided else data


def initialised(root: Path) -> tuple[object, int]:
    """Returns the labels and outputs of the recipe for a folder."""
    data = of_one_training(medarts.init(root, measure=False).recipe.data)
    open_manifest(data, needs=("train",))
    open_data(data, needs=("train",))
    return data.sources[0].model_dump(mode="json")["labels"], data.outputs


def disc(size: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.asarray(np.hypot(rows - size / 2, columns - size / 2) < radius)


def test_smooth_edges_are_no_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    large = Image.fromarray(disc(100, 30).astype(np.uint8) * 255)
    mask = np.asarray(large.resize((32, 32), Image.Resampling.BILINEAR))
    assert len(np.unique(mask)) > 3
    assert initialised(grey(tmp_path / "data", [mask] * 6)) == (None, 1)


def test_masks_of_two_programs_are_of_one_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = initialised(grey(tmp_path / "data", [square(1)] * 4 + [square(255)] * 4))
    assert found == (None, 1)


def test_one_class_with_a_border_that_is_void(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = np.where(disc(32, 11), 255, 0).astype(np.uint8)
    mask[disc(32, 9)] = 1
    assert initialised(grey(tmp_path / "data", [mask] * 6)) == ({"1": 1, "255": "ignore"}, 1)


def test_the_doctor_says_of_palettes_what_init_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = grey(tmp_path / "data", [square(1, 2, 255)] * 6)
    for path in (root / "masks").iterdir():
        mask = Image.fromarray(np.asarray(Image.open(path)), "P")
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 756, 224, 224, 192])
        mask.save(path)
    assert initialised(root) == ({"1": 1, "2": 2, "255": "ignore"}, 3)
    told = [line.split("#")[0].strip() for line in medarts.doctor(root).summaries[0].labels]
    assert told == ["classes: 3", "labels:", "0: background", "1: 1", "2: 2", "255: ignore"]


def test_classes_may_be_thin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = square(1, 2, 3)
    mask[:, 20], mask[:, 24] = 4, 5
    assert initialised(grey(tmp_path / "data", [mask] * 6)) == ({str(n): n for n in range(1, 6)}, 6)


def test_colours_in_jpeg_are_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:32, :32], mask[32:, 32:] = (250, 0, 0), (0, 250, 0)
    root = grey(tmp_path / "data", [square(255)] * 6)
    for n in range(6):
        put(root / "images" / f"{n}.png", np.full((64, 64), n, np.uint8))
        (root / "masks" / f"{n}.png").unlink()
        Image.fromarray(mask).save(root / "masks" / f"{n}.jpg", quality=90, subsampling=0)
    labels, outputs = initialised(root)
    assert isinstance(labels, dict)
    assert (list(labels.values()), outputs) == ([1, 2], 3)


def test_what_nnunet_ignores_is_ignored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LAYOUTS["nnunet"](tmp_path / "data")
    about = json.loads((tmp_path / "data/dataset.json").read_text())
    about["labels"] = {"background": 0, "liver": 1, "ignore": 2}
    (tmp_path / "data/dataset.json").write_text(json.dumps(about))
    data = medarts.init("data", measure=False).recipe.data
    assert (data.classes, data.sources[0].model_dump()["labels"]) == (("liver",), {1: "liver", 2: "ignore"})
    open_data(of_one_training(data), needs=("train",))


def test_colours_of_masks_are_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((32, 32, 3), np.uint8)
    mask[:8], mask[8:16] = (255, 0, 0), (0, 255, 0)
    grey(tmp_path / "data", [mask] * 6)
    data = medarts.init("data", measure=False).recipe.data
    assert data.sources[0].model_dump(mode="json")["labels"] == {"#00ff00": 1, "#ff0000": 2}
    assert data.outputs == 3


def test_classes_that_overlap_in_their_files_may_overlap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in range(6):
        put(tmp_path / "data/images" / f"{n}.png", square(3))
        for organ, mask in (("liver", square(255, 255)), ("tumour", square(255))):
            put(tmp_path / f"data/masks/{organ}/{n}.png", mask)
    recipe = medarts.init("data", measure=False).recipe
    assert (recipe.data.classes, recipe.data.overlap) == (("liver", "tumour"), True)
    assert recipe.train.loss.name == "bce_dice"


@pytest.mark.parametrize("everywhere", [True, False])
def test_annotations_that_overlap_may_overlap(tmp_path, monkeypatch, everywhere):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medarts.proposal.looking.OPENED", 4)
    LAYOUTS["coco"](tmp_path / "data")
    path = tmp_path / "data/annotations/instances.json"
    content = json.loads(path.read_text())
    for number, image in enumerate(sorted(content["images"], key=lambda each: each["file_name"])):
        liver, tumour = [[2, 2, 12, 2, 12, 12, 2, 12]], [[8, 8, 16, 8, 16, 16, 8, 16]]
        apart = not everywhere and number != 1  # the second is not among the first that are opened
        for category, ring in ((3, liver), (7, [[20, 20, 26, 20, 26, 26, 20, 26]] if apart else tumour)):
            content["annotations"].append({"image_id": image["id"], "category_id": category, "segmentation": ring})
    content["annotations"] = [each for each in content["annotations"] if "id" not in each]
    path.write_text(json.dumps(content))
    recipe = medarts.init("data", measure=False).recipe
    assert (recipe.data.classes, recipe.data.overlap) == (("liver", "tumour"), True)
    open_data(of_one_training(recipe.data), needs=("train",))


def test_rare_foreground_is_drawn_more_often(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = np.zeros((32, 32), np.uint8)
    tiny[3:5, 3:5] = 255
    assert medarts.init(grey(tmp_path / "a", [tiny] * 6), measure=False).recipe.data.sampling == "foreground"
    common = medarts.init(grey(tmp_path / "b", [square(255, 255)] * 6), measure=False, out="b.yaml").recipe
    assert common.data.sampling == "by_size"


def test_two_data_sets_become_two_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        grey(tmp_path / name, [square(255)] * 6)
    data = medarts.init("a", "b", measure=False).recipe.data
    assert [source.domain for source in data.sources] == ["a", "b"]
    assert data.sampling == "equal"


def test_sets_without_training_images_are_left_for_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data/train", [square(255)] * 6)
    for centre in "xy":
        grey(tmp_path / "data/test" / centre, [square(255)] * 2)
    found = medarts.init("data", measure=False)
    assert [source.model_dump()["image"] for source in found.recipe.data.sources] == ["train/images/{name}"]
    assert "left out of the recipe" in found.answers[0][1]


def test_what_no_recipe_can_learn_from_is_refused_without_measuring_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"All masks of .*empty are empty"):
        medarts.init(grey(tmp_path / "empty", [square(255, 255) * 0] * 4), measure=False)
    with pytest.raises(DataError, match=r"All masks of .*full are foreground everywhere.*labels="):
        medarts.init(grey(tmp_path / "full", [square(255) * 0 + 255] * 6), measure=False)
    half = grey(tmp_path / "half", [square(255) * 0 + 255] * 2 + [square(255)] * 4)
    some = medarts.init(half, out="half.yaml", measure=False)
    assert "nothing else in 33%" in dict(described(some.looks[0]))["foreground"]
    with pytest.raises(DataError, match="No image of one is in the split 'val'"):
        medarts.init(grey(tmp_path / "one", [square(255, 255)]), measure=False)
    assert not Path("recipe.yaml").exists()


def test_a_recipe_is_never_replaced_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data", [square(255)] * 6)
    Path("recipe.yaml").write_text("mine")
    with pytest.raises(RecipeError, match=r"recipe\.yaml exists already\. Choose another name \(out\), or replace it"):
        medarts.init("data", measure=False)
    assert Path("recipe.yaml").read_text() == "mine"
    medarts.init("data", measure=False, force=True, changes="data.size=16")
    assert load(Path("recipe.yaml")).data.size == 16


@pytest.mark.parametrize(
    ("side", "size", "why"),
    [
        (32, 32, "as the images"),
        (40, 32, "images have 40 px; networks need a size that they can halve often"),
        (20, 32, "images have 20 px; networks need a size that they can halve often"),
        (130, 128, "images have 130 px, which take longer on a CPU"),
    ],
)
def test_the_size_has_its_reason(tmp_path, monkeypatch, side, size, why):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    drawn = np.zeros((side, side), np.uint8)
    drawn[4:12, 4:12] = 255
    for n in range(4):
        put(tmp_path / f"data/images/{n}.png", drawn // (n + 2))
        put(tmp_path / f"data/masks/{n}.png", drawn)
    draft = medarts.init("data", measure=False).draft
    assert (draft.content["data"]["size"], draft.reasons["data.size"]) == (size, why)


def test_a_mask_of_another_size_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data", [square(255)] * 6)
    put(tmp_path / "data/masks/3.png", square(255)[:-2])
    with pytest.raises(DataError, match=r"images/3\.png is .* pixels but its mask .*masks/3\.png is"):
        medarts.init("data", measure=False)


def test_images_beside_those_that_are_read_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data", [square(255)] * 6)
    for n in range(6):
        put(tmp_path / f"data/overlays/{n}.png", square(n + 1))
    put(tmp_path / "data/preview.png", square(1))
    (look,) = medarts.init("data", measure=False).looks
    assert look.doubts == ("1 image in data", "6 images in overlays")


def test_end_of_input_is_no_answer(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert terminal.ask(Question("Which?", ("this", "that"))) is None
    monkeypatch.setattr("sys.stdin", io.StringIO("0\nsecond\n 2 \n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert terminal.ask(Question("Which?", ("this", "that"))) == 1


def test_what_files_do_not_say_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for patient in range(6):
        for n in range(2):
            put(tmp_path / f"data/images/{patient}_{n}.png", square(3))
            for kind in ("masks_first", "masks_second"):
                put(tmp_path / f"data/{kind}/{patient}_{n}.png", square(255))
    asked: list[str] = []

    def second(question):
        asked.append(question.text)
        return 1

    with pytest.raises(DataError, match="2 ways"):
        medarts.init("data", measure=False)
    source = medarts.init("data", measure=False, ask=second).recipe.data.sources[0].model_dump()
    assert (source["mask"], source["patients"]) == ("masks_second/{name}", None)
    assert len(asked) == 2
    assert "gives 6 patients of 12 images" in asked[1]
    usual = medarts.init("data", measure=False, force=True, ask=lambda question: 0).recipe.data.sources[0].model_dump()
    assert (usual["mask"], usual["patients"]) == ("masks_first/{name}", "{patient}_{n}")


def test_patients_that_are_given_decide_what_is_proposed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for patient in range(6):
        for n in range(2):
            for kind, level in (("images", 3), ("masks", 255)):
                put(tmp_path / f"data/{kind}/p{patient}-{n}.png", square(level))
    wrong = "data.sources.0.patients={patient}_{n}"
    with monkeypatch.context() as patched:
        patched.setattr("medarts.proposal.look_at", None)  # before an image is opened
        with pytest.raises(DataError, match=r"does not say its patient \(12\): p0-0\.png.*'{patient}_{n}'"):
            medarts.init("data", measure=False, changes=wrong)
    asked: list[str] = []
    options = {"measure": False, "ask": lambda question: asked.append(question.text)}
    found = medarts.init("data", changes="data.sources.0.patients={patient}-{n}", **options)
    rows = dict(described(found.looks[0], folds=found.recipe.data.folds))
    assert (rows["patients"], rows["splits"]) == ("6", "3 folds, so that every patient is tested once")
    assert (found.recipe.data.sources[0].patients, found.recipe.data.folds, asked) == ("{patient}-{n}", 3, [])
    none = medarts.init("data", changes="data.sources.0.patients=null", force=True, **options)
    assert (none.recipe.data.sources[0].patients, none.recipe.data.folds, asked) == (None, 5, [])


def test_init_times_real_steps_of_small_batches(tmp_path, monkeypatch):
    """Whatever parts the recipe splits its batches into."""
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data", [square(255)] * 8)
    small = "budget={parameters: 20000}"
    found = medarts.init("data", changes=[*SMALLEST, "train.accumulate=4", "train.batch=4", small])
    assert found.recipe.train.accumulate == 4
    assert all(0 < time.low <= time.seconds <= time.high for time in found.times or ())
    assert found.times is not None


def test_the_budget_decides_the_epochs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data", [square(255)] * 8)

    ten_seconds_an_epoch(monkeypatch)
    given = {"changes": [NO_BUDGET]}
    least, short, long = (
        medarts.init("data", minutes=minutes, out=f"{minutes}.yaml", **given) for minutes in (10, 400, 10000)
    )
    assert least.recipe.train.epochs < short.recipe.train.epochs < long.recipe.train.epochs
    assert 320 < sum(short.minutes or ()) < 480
    assert all(time.low < time.seconds < time.high for time in short.times or ())
    assert [each.is_too_long for each in (least, short, long)] == [True, False, False]
    steps = least.recipe.train.epochs * 2  # batches of 2 of 4 training images
    assert steps >= 1500 / 4  # a network has to have learned something
    candidates = [each.recipe.search.select.candidates for each in (least, long)]
    assert candidates == [12, 24]


@pytest.mark.parametrize("change", ["data.resize=patches", "data.folds=3"])
def test_patches_and_folds_are_measured_too(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        grey(tmp_path / name, [square(255)] * 30)
    seen = ten_seconds_an_epoch(monkeypatch)
    monkeypatch.setattr("medarts.proposal.measuring._TRIED", (8,))
    found = medarts.init("a", "b", changes=["data.size=16", "space.choices.depth=[3]", NO_BUDGET, change], minutes=400)
    recipe, data = seen[0]
    assert (recipe.data.folds, recipe.train.batch) == (None, 2)
    names = [(sample.domain, sample.key) for sample in data.manifest.of_split("train").samples]
    assert [name for name, _ in names] == ["a"] * 4 + ["b"] * 4  # the same names in both are different images
    assert 320 < sum(found.minutes or ()) < 480


def test_where_few_images_show_too_little_more_are_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "data", [square(255)] * 40)
    seen = ten_seconds_an_epoch(monkeypatch, refused=1)
    monkeypatch.setattr("medarts.proposal.measuring._TRIED", (8,))
    assert medarts.init("data", changes=[NO_BUDGET]).times is not None
    assert [len(data.manifest.of_split("train").samples) for _, data in seen[:2]] == [8, 28]


def ten_seconds_an_epoch(monkeypatch, *, refused: int = 0) -> list:
    """Has an epoch of any recipe take ten seconds on the images that are tried; returns what is tried."""
    seen = []

    def tried(recipe, epochs, data):
        seen.append((recipe, data))
        if len(seen) <= refused:
            raise DataError("All masks of the training images are empty.", fix="Add others.")
        return Trial(1, 10.0 * epochs, 1.0, 1, 1, low=0.9, high=1.2)

    def training(recipe, network, *, data, **_):
        return tried(recipe, recipe.train.epochs, data)

    monkeypatch.setattr("medarts.proposal.measuring.try_training", training)
    return seen


def test_findings_of_a_table_become_a_recipe_of_findings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["image,patient,a,b"]
    for n in range(12):
        put(tmp_path / f"data/images/{n}.png", square(n + 1))
        rows.append(f"{n}.png,p{n // 2},{n % 2},{n % 3 == 0:d}")
    (tmp_path / "data/labels.csv").write_text("\n".join(rows))
    found = medarts.init("data", measure=False)
    assert (found.recipe.data.task, found.recipe.space.name) == ("classification", "darts")
    assert dict(described(found.looks[0]))["layout"] == "table, file labels.csv"
    with pytest.raises(DataError, match="no known layout for segmentation"):
        medarts.init("data", measure=False, task="segmentation", force=True)


def test_a_published_table_is_recognised_by_its_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["Path,Sex,Age,Edema,Fracture"]
    for n in range(24):
        name = f"train/patient{n // 2}/study{n % 2}/view1.png"
        put(tmp_path / "CheXpert" / name, square(n + 1))
        rows.append(f"CheXpert/{name},F,{40 + n},{('1.0', '0.0', '-1.0', '')[n % 4]},{n % 2}.0")
    (tmp_path / "CheXpert/train.csv").write_text("\n".join(rows))
    found = medarts.init("CheXpert", measure=False)
    assert found.looks[0].doubts == ()  # that no column names patients is told as what is known of them
    data = found.recipe.data
    source = data.sources[0].model_dump()
    assert (source["file"], source["columns"]["image"], source["uncertain"]) == ("train.csv", "Path", "negative")
    assert (source["patients"], data.findings) == ("**/{patient}/*/*", ("Edema", "Fracture"))
    assert len({sample.patient for sample in open_manifest(data, needs=("train",)).samples}) == 12
    again = medarts.init("CheXpert/train.csv", measure=False, out="again.yaml").recipe.data
    assert again.sources == data.sources
    (tmp_path / "CheXpert/valid.csv").write_text("\n".join(rows[:12]))
    with pytest.raises(DataError, match=r"\(1\) the table train\.csv; \(2\) the table valid\.csv"):
        medarts.init("CheXpert", measure=False, force=True)
