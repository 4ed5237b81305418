"""So many images by patient: whole, proportional, deterministic, with the findings as frequent as in all."""

import csv
import os
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.config import SPLITS
from medarts.data.manifest import Sample
from medarts.data.sampling import sample_patients
from medarts.data.sources.chestxray14 import FINDINGS
from medarts.errors import DataError


def a_sample(key: str, patient: str, split: str, *findings: str) -> Sample:
    return Sample(key, Path("i"), None, patient, "d", split, findings=findings)


def generated(patients: int, *, seed: int = 0, largest: int = 20) -> list[Sample]:
    """Patients with 1 to ``largest`` images, findings of 0.2 % to 18 % that come together and by patient."""
    generator = np.random.default_rng(seed)
    rates = dict(zip(FINDINGS, np.geomspace(0.002, 0.18, len(FINDINGS)), strict=True))
    samples = []
    for patient in range(patients):
        ill = generator.gamma(1.0)
        own = [name for name, rate in rates.items() if generator.random() < min(2 * rate * ill, 0.9)]
        split = SPLITS[np.searchsorted([0.7, 0.8], generator.random())]
        for n in range(min(int(generator.pareto(1.5) + 1), largest)):
            shown = [name for name in own if generator.random() < 0.5]
            samples.append(a_sample(f"{patient}_{n}", str(patient), split, *shown))
    return samples


def toy_samples() -> list[Sample]:
    """The 11,042 X-rays of the published toy split."""
    samples = []
    for split in SPLITS:
        with (Path(os.environ["MEDARTS_DATA"]) / "chestxray14/toy_split" / f"{split}.csv").open() as file:
            for row in csv.DictReader(file):
                found = [name for name in FINDINGS if name in row["Finding Labels"].split("|")]
                samples.append(a_sample(row["Image Index"], row["Patient ID"], split, *found))
    return samples


def of_split(samples: list[Sample], split: str) -> list[Sample]:
    return [sample for sample in samples if sample.split == split]


def positives(samples: list[Sample]) -> Counter[str]:
    return Counter(name for sample in samples for name in sample.findings)


def largest(samples: list[Sample]) -> int:
    return max(Counter(sample.patient for sample in samples).values())


def check_rules(samples: list[Sample], drawn: list[Sample], images: int) -> None:
    """Whole patients, and the share of every split exceeded by less than a patient's images."""
    chosen = {sample.patient for sample in drawn}
    assert drawn == [sample for sample in samples if sample.patient in chosen]
    for split in SPLITS:
        whole, part = of_split(samples, split), of_split(drawn, split)
        if whole:
            share = images * len(whole) / len(samples)
            assert share - 1 <= len(part) < max(share, 1) + 1 + largest(part)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(SPLITS), st.sets(st.sampled_from("abc"))), min_size=1, max_size=25
    ),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_any_set_gives_whole_patients_of_every_split(patients, part, seed):
    samples = [
        a_sample(f"{n}_{k}", str(n), split, *sorted(findings))
        for n, (count, split, findings) in enumerate(patients)
        for k in range(count)
    ]
    images = max(1, round(part * len(samples)))
    check_rules(samples, sample_patients(samples, images=images, seed=seed), images)


def test_all_images_are_all_and_more_are_refused():
    samples = generated(40)
    assert sample_patients(samples, images=len(samples), seed=0) == samples
    with pytest.raises(DataError, match=f"{len(samples) + 1} images are requested, but there are only {len(samples)}"):
        sample_patients(samples, images=len(samples) + 1, seed=0)


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    samples = generated(400)
    shuffled = random.Random(1).sample(samples, len(samples))
    keys = [
        {sample.key for sample in sample_patients(given, images=150, seed=seed)}
        for given, seed in ((samples, 0), (shuffled, 0), (samples, 1))
    ]
    assert keys[0] == keys[1] != keys[2]


def check_distribution(samples: list[Sample], images: int, seed: int) -> None:
    drawn = sample_patients(samples, images=images, seed=seed)
    check_rules(samples, drawn, images)
    for split in SPLITS:
        whole, part = of_split(samples, split), of_split(drawn, split)
        before, after = positives(whole), positives(part)
        assert set(after) == set(before), "a finding was lost"
        for name, count in before.items():
            wanted = count * len(part) / len(whole)
            fewest = min(Counter(sample.patient for sample in whole if name in sample.findings).values())
            # Within 3 images or a tenth, or one patient where the finding needs one to be there at all.
            assert abs(after[name] - wanted) <= max(3, 0.1 * wanted, fewest), (split, name, after[name], wanted)


@pytest.mark.parametrize("images", [500, 1000, 2000])
@pytest.mark.parametrize("seed", [0, 1])
def test_findings_stay_as_frequent_as_they_are(images, seed):
    check_distribution(generated(2500), images, seed)


def test_the_only_patient_with_a_finding_is_kept():
    samples = [a_sample(str(n), str(n), "train", *(["common"] if n % 2 else [])) for n in range(500)]
    samples[123] = a_sample("123", "123", "train", "rare")
    for seed in range(5):
        drawn = sample_patients(samples, images=10, seed=seed)
        assert len(drawn) == 10
        assert positives(drawn)["rare"] == 1
        assert positives(drawn)["common"] in (4, 5)


def test_a_patient_too_large_for_the_share_is_not_forced_in():
    samples = [a_sample(f"big{n}", "big", "train", "rare") for n in range(50)]
    samples += [a_sample(str(n), str(n), "train") for n in range(450)]
    assert [len(sample_patients(samples, images=10, seed=seed)) for seed in range(3)] == [10] * 3


def test_thirty_thousand_patients_take_moments():
    samples = generated(30_000, largest=184)
    start = time.process_time()
    drawn = sample_patients(samples, images=len(samples) // 10, seed=0)
    assert time.process_time() - start < 3
    check_rules(samples, drawn, len(samples) // 10)


@pytest.mark.skipif("MEDARTS_DATA" not in os.environ, reason="needs real data (MEDARTS_DATA)")
@pytest.mark.parametrize("images", [500, 3000])
def test_the_real_table_keeps_its_frequencies(images):
    check_distribution(toy_samples(), images, seed=0)
