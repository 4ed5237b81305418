"""Statistics of scores: means with intervals over patients, and differences between networks with their tests.

Images of one patient resemble each other, so patients are resampled, left out or exchanged as wholes. Two networks are
compared through a `Contrast`, which keeps what every patient and every seed adds to their difference. Its test asks
two questions, and a difference counts as statistically significant only where both are answered:

* Would it be as large if the networks were equally good on other patients like these? A sign-flip permutation test,
  exact up to `EXACT_UP_TO` patients.
* Would it be as large with other seeds as well? A mixed model in which patients and seeds are random, as in studies
  of several readers and several cases (see `Contrast.seeds_p`). With one seed a network, nothing is known of the
  spread between seeds, and the first question stands alone: it then holds for these trained networks only.

Intervals and p-values of a difference come from the same tests, so that they agree: 0 lies outside of the 95 % interval
where p is below 0.05 before correction. The one exception are single seeds on `FEW_PATIENTS` or more patients in every
data set, where the interval is a percentile bootstrap.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Verdict = Literal["better", "worse", "no significant difference", "too few patients to decide"]

LEVEL = 0.95
"""Coverage of intervals."""

ALPHA = 0.05
"""A corrected p below it is statistically significant."""

FEW_PATIENTS = 10
"""With fewer patients in a data set, intervals do not come from a bootstrap, which is too narrow there."""

EXACT_UP_TO = 12
"""Patients up to which all flips of signs are gone through: 4,096."""

FLIPS = 10_000
"""Random flips with more patients."""

# Numbers held at once: 4 million of 8 bytes are 32 MB.
_CHUNK = 2**22


class Interval(NamedTuple):
    """An interval; both ends are nan where it is undefined."""

    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan)


def bootstrap_means(values: ArrayLike, patients: Sequence[str], *, draws: int, seed: int | Sequence[int]) -> Floats:
    """Returns the means over images in every draw of a bootstrap over patients, (draws,).

    A cluster bootstrap (Field and Welsh 2007, "Bootstrapping clustered data"): every draw takes as many patients as
    there are, with replacement, and averages all their images.

    Args:
        values: one score per image (N,); nan values are left out, with their patients where nothing remains.
        patients: the patient of every image.
        draws: number of draws.
        seed: of the draws; equal seeds and data give equal draws.

    Returns:
        The means; all nan where fewer than two patients have a value, as nothing is then known of the spread.

    Raises:
        ValueError: values and patients differ in number.
    """
    sums, counts = _by_patient(values, patients)
    if len(counts) < 2:
        return np.full(draws, np.nan)
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(counts))
    sizes = [(min(rows, draws - start), len(counts)) for start in range(0, draws, rows)]
    drawn = (generator.integers(len(counts), size=size) for size in sizes)
    return np.concatenate([sums[chosen].sum(1) / counts[chosen].sum(1) for chosen in drawn])


def left_out_means(values: ArrayLike, patients: Sequence[str]) -> Floats:
    """Returns the mean over images without each patient in turn, (patients,); empty with fewer than two.

    The arguments are those of `bootstrap_means`.
    """
    sums, counts = _by_patient(values, patients)
    if len(counts) < 2:
        return np.empty(0)
    means: Floats = (sums.sum() - sums) / (counts.sum() - counts)
    return means


def _by_patient(values: ArrayLike, patients: Sequence[str]) -> tuple[Floats, NDArray[np.int64]]:
    """Returns the sum and the number of the defined values of every patient that has one."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (len(patients),):
        raise ValueError(f"values have shape {scores.shape}, but there are {len(patients)} patients")
    defined = ~np.isnan(scores)
    of_image = np.unique(np.asarray(patients, dtype=np.str_)[defined], return_inverse=True)[1]
    sums = np.asarray(np.bincount(of_image, weights=scores[defined]), dtype=np.float64)
    return sums, np.bincount(of_image).astype(np.int64)


def bootstrap_weights(people: NDArray[np.intp], *, draws: int, seed: int) -> NDArray[np.unsignedinteger[Any]]:
    """Returns how often each image occurs in each draw of a bootstrap over patients, (draws, N).

    Args:
        people: number of each image's patient (N,), from 0 on without gaps, N at least 1.
        draws: number of draws.
        seed: of the draws; they are those of `bootstrap_means`.
    """
    patients = int(people.max()) + 1
    generator = np.random.default_rng(seed)
    weights = np.empty((draws, len(people)), dtype=np.min_scalar_type(patients))
    for row in weights:
        row[:] = np.bincount(generator.integers(patients, size=patients), minlength=patients)[people]
    return weights


def left_out_weights(people: NDArray[np.intp]) -> NDArray[np.unsignedinteger[Any]]:
    """Returns 0 for the images of one patient after the other and 1 for all others, (patients, N)."""
    return np.asarray(people != np.arange(int(people.max()) + 1)[:, None], dtype=np.uint8)


def percentile_interval(means: Floats, *, level: float = LEVEL) -> Interval:
    """Returns the central interval that holds ``level`` of the means; undefined where a mean is nan, or none is."""
    if len(means) == 0:
        return UNDEFINED
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def jackknife_interval(value: float, left_out: Sequence[Floats], *, limits: tuple[float, float]) -> Interval:
    """Returns the 95 % interval of a statistic of few patients: Student's t on its jackknife standard error.

    The jackknife of whole patients (Efron and Stein 1981) is nearly unbiased for few of them, and t with the degrees
    of freedom of the patients widens the interval as their number falls, which percentiles of a bootstrap do not. Of a
    mean over data sets the variances add up, and Welch and Satterthwaite give the degrees of freedom.

    Args:
        value: the statistic.
        left_out: its values with one patient left out, an array for every data set that it is the mean of.
        limits: least and largest possible value, at which the interval is cut.

    Returns:
        The interval; undefined where a data set has fewer than two patients, or a value is undefined.
    """
    from scipy.special import stdtrit

    if not left_out or any(len(of) < 2 or np.isnan(of).any() for of in left_out) or math.isnan(value):
        return UNDEFINED
    variances = [(len(of) - 1) * float(of.var()) / len(left_out) ** 2 for of in left_out]
    if not sum(variances):
        return Interval(value, value)
    freedom = sum(variances) ** 2 / sum(v**2 / (len(of) - 1) for v, of in zip(variances, left_out, strict=True))
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(sum(variances))
    return Interval(max(value - reach, limits[0]), min(value + reach, limits[1]))


@dataclass(frozen=True, slots=True)
class Difference:
    """The score of one network minus that of another, on the same patients.

    Attributes:
        mean: the difference; a mean over seeds where there are several.
        low: lower end of its 95 % interval; None where too few patients leave it unbounded or unknown.
        high: upper end.
        p: two-sided p of no difference; None with one patient.
        p_corrected: the same after Holm's correction for all differences that are tested together.
        least_p: the least corrected p that this number of patients and differences allows, whatever the networks are.
        patients: number of patients.
        seeds: seeds of the network that has fewest; with 1, the test is over patients alone.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    least_p: float = 1.0
    patients: int = 0
    seeds: int = 1


def verdict(difference: Difference | None, *, larger_is_better: bool = True) -> Verdict:
    """Returns what a difference says of the first network, in a word of a fixed list.

    "too few patients to decide" means that no difference, however large, could be significant: even equal signs of all
    patients are too likely by chance.

    >>> verdict(Difference(0.1, 0.05, 0.15, p=0.01, p_corrected=0.02, least_p=0.001))
    'better'
    """
    if difference is None or difference.p_corrected is None or difference.least_p >= ALPHA:
        return "too few patients to decide"
    if difference.p_corrected >= ALPHA:
        return "no significant difference"
    return "better" if (difference.mean > 0) == larger_is_better else "worse"


@dataclass(frozen=True, eq=False)
class Contrast:
    """A weighted sum of the scores of several networks on the same patients, such as a difference of two.

    A score has to be a sum over patients: a mean over images, or an area under a ROC curve. Of a network that is
    trained with several seeds, the score is the mean over the seeds, all of which are used.

    Attributes:
        sides: by trained network what every patient adds with every seed (seeds, patients); with the sign and the
            factor of the network, so that the contrast is the sum of all sides, each averaged over its seeds.
        shares: what every patient would add (patients,) if the contrast were 1 and alike for all: its share of the
            images. Sums to 1.
        sets: data set of every patient (patients,).
        drawn: the contrast in every draw of a bootstrap over patients (draws,); empty where it was not drawn.
        repeats: by side the networks that stand in it for seeds; see `as_repeats`.
    """

    sides: Mapping[str, Floats]
    shares: Floats
    sets: NDArray[np.str_]
    drawn: Floats = field(default_factory=lambda: np.empty(0))
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def terms(self) -> Floats:
        """What every patient adds to the contrast, mean over seeds, (patients,)."""
        return np.asarray(np.sum([side.mean(0) for side in self.sides.values()], axis=0))

    @property
    def mean(self) -> float:
        """The contrast itself."""
        return float(self.terms.sum())

    @property
    def patients(self) -> int:
        """The number of patients."""
        return len(self.shares)

    @property
    def seeds(self) -> int:
        """Seeds of the network that has fewest."""
        return min(map(len, self.sides.values()))

    def difference(self, *, seed: int = 0) -> Difference:
        """Returns the contrast with its interval and its p, not corrected; without both where there is one patient.

        Args:
            seed: of random flips.
        """
        mean, about = self.mean, {"patients": self.patients, "seeds": self.seeds}
        if self.patients < 2:
            return Difference(mean, None, None, p=None, p_corrected=None, **about)
        p = float(flip_p(self.terms, seed=seed))
        if max(map(len, self.sides.values())) == 1:
            drawn = self.drawn[~np.isnan(self.drawn)]
            fewest = np.unique(self.sets, return_counts=True)[1].min()
            interval = flip_interval(self.terms, self.shares, seed=seed)
            if len(drawn) and fewest >= FEW_PATIENTS:
                interval = percentile_interval(drawn)
        else:
            of_patients, of_both = flip_interval(self.terms, self.shares, seed=seed), self.seeds_interval()
            p = max(p, self.seeds_p())
            interval = Interval(min(of_patients.low, of_both.low), max(of_patients.high, of_both.high))
        low, high = (end if math.isfinite(end) else None for end in interval)
        return Difference(mean, low, high, p=p, p_corrected=None, least_p=least_p(self.patients), **about)

    def seeds_p(self) -> float:
        """Returns the two-sided p of a mixed model in which patients and seeds are random.

        The score of a patient with a seed is the network's score plus effects of the patient, of the seed and of both
        together. This is the analysis of multi-reader multi-case studies, with seeds as readers: Dorfman, Berbaum and
        Metz (1992), Obuchowski and Rockette (1995), in the form of Hillis (2014, "A marginal-mean ANOVA approach for
        analyzing multireader multicase radiological imaging data", Statistics in Medicine 33) for readers nested within
        the compared networks, as the seeds of two networks have nothing in common. The variance of the contrast is that
        over patients plus that over the seeds of every network, less what both contain, and not below either. Degrees
        of freedom are those of Satterthwaite. A network of one seed is given the mean spread of the others.

        The p is nan where no network has several seeds, and 1 where nothing varies and the contrast is 0.
        """
        from scipy.special import stdtr

        error, freedom = self._seeds_error()
        if math.isnan(error):
            return math.nan
        if error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stdtr(freedom, -abs(self.mean) / error))

    def seeds_interval(self) -> Interval:
        """Returns the 95 % interval of the same model; undefined where no network has several seeds."""
        from scipy.special import stdtrit

        error, freedom = self._seeds_error()
        reach = error * float(stdtrit(freedom, (1 + LEVEL) / 2)) if error else 0.0
        return Interval(self.mean - reach, self.mean + reach)

    def _seeds_error(self) -> tuple[float, float]:
        """Returns the standard error and its degrees of freedom; nan twice where no network has several seeds."""
        several = [side for side in self.sides.values() if len(side) > 1]
        if not several or self.patients < 2:
            return math.nan, math.nan
        seeds = [_SeedVariance.of(side, self._deviations) for side in several]
        # The variance of a single seed is that of the mean of several times their number.
        single = (len(self.sides) - len(several)) / len(several)
        factors = [1 + single * (one.freedom + 1) for one in seeds]
        of_seeds, of_both = (
            sum(factor * value for factor, value in zip(factors, values, strict=True))
            for values in ([one.seeds for one in seeds], [one.both for one in seeds])
        )
        of_patients = [v for v in self._patient_variances() if v.freedom > 0]
        patients = sum(one.variance for one in of_patients)
        variance = max(patients + of_seeds - of_both, patients, of_seeds)
        spread = sum(one.variance**2 / one.freedom for one in of_patients)
        spread += sum((factor * one.seeds) ** 2 / one.freedom for factor, one in zip(factors, seeds, strict=True))
        return math.sqrt(variance), variance**2 / spread if spread else math.inf

    def _patient_variances(self) -> list["_Variance"]:
        """Returns the variance of the contrast over the patients of every data set."""
        deviations, found = self._deviations(self.terms), []
        for name in np.unique(self.sets):
            of_set = deviations[self.sets == name]
            count = len(of_set)
            found.append(_Variance(float((of_set**2).sum()) * count / max(count - 1, 1), count - 1))
        return found

    def _deviations(self, terms: Floats) -> Floats:
        """Returns terms (..., patients) less what each patient would add if all of its data set were alike."""
        less = np.empty_like(terms)
        for name in np.unique(self.sets):
            of_set = self.sets == name
            share = self.shares[of_set] / self.shares[of_set].sum()
            less[..., of_set] = terms[..., of_set] - terms[..., of_set].sum(-1, keepdims=True) * share
        return less


class _Variance(NamedTuple):
    variance: float
    freedom: int


@dataclass(frozen=True, slots=True)
class _SeedVariance:
    """Of the mean of a network over its seeds: the variance over seeds, which contains that of seeds and patients."""

    seeds: float
    both: float
    freedom: int

    @classmethod
    def of(cls, side: Floats, deviations: Callable[[Floats], Floats]) -> "_SeedVariance":
        count, patients = side.shape
        both = (deviations(side - side.mean(0)) ** 2).sum() * patients / (patients - 1) / (count * (count - 1))
        return cls(float(side.sum(1).var(ddof=1)) / count, float(both), count - 1)


def corrected(differences: Any) -> list[Any]:
    """Returns differences with ``p_corrected`` and ``least_p`` by Holm's method, for those among them that have a p."""
    given = list(differences)
    tested = [place for place, one in enumerate(given) if one is not None and one.p is not None]
    p_values, least = (holm([getattr(given[place], name) for place in tested]) for name in ("p", "least_p"))
    for place, p, least_of_all in zip(tested, p_values, least, strict=True):
        given[place] = replace(given[place], p_corrected=p, least_p=least_of_all)
    return given


def mean_of_contrasts(of: Sequence[Contrast]) -> Contrast:
    """Returns the mean of contrasts on the same patients, whose sign a patient changes in all of them at once.

    A network that several of them have counts in all of them with the same seeds.

    Args:
        of: at least one, with the same patients in the same order and draws.
    """
    sides: dict[str, Floats] = {}
    for one in of:
        for name, side in one.sides.items():
            sides[name] = sides[name] + side / len(of) if name in sides else side / len(of)
    drawn = np.mean([one.drawn for one in of], axis=0)
    return Contrast(sides, of[0].shares, of[0].sets, drawn)


def mean_over_sets(of: Mapping[str, Contrast]) -> Contrast:
    """Returns the mean of contrasts on several data sets, each with the same weight, over the patients of all.

    A side of one name on several data sets is one trained network that was scored on each of them: its seeds are the
    same. The draws of every data set are put into an order of its own, so that those of two data sets are independent.

    Args:
        of: by data set, whose order is of no effect; at least one.
    """
    names = sorted(of)
    patients = [of[name].patients for name in names]
    starts = dict(zip(names, np.cumsum([0, *patients]).tolist(), strict=False))
    sides: dict[str, Floats] = {}
    for name in names:
        for key, side in of[name].sides.items():
            # Seeds that one data set lacks cannot be matched with the others, so the side stands for itself there.
            known = key if key not in sides or len(sides[key]) == len(side) else f"{key} on {name}"
            whole = sides.setdefault(known, np.zeros((len(side), sum(patients))))
            whole[:, starts[name] : starts[name] + side.shape[1]] += side / len(of)
    drawn = [np.random.default_rng(place).permutation(of[name].drawn) for place, name in enumerate(names)]
    return Contrast(
        sides,
        shares=np.concatenate([of[name].shares / len(of) for name in names]),
        sets=np.concatenate([np.char.add(f"{name}/", of[name].sets) for name in names]),
        drawn=np.mean(drawn, axis=0),
    )


def as_repeats(contrast: Contrast, sides: Sequence[str], *, name: str) -> Contrast:
    """Returns a contrast in which several networks are repeats of one method, as searches with several seeds are.

    Each of them, averaged over its training seeds, takes the place of a seed: what differs between searches contains
    what differs between their trainings (a nested design), and conclusions hold for further searches. Random networks
    of a space are repeats of drawing at random. With one repeat the contrast stays as it is.

    Args:
        contrast: such as a mean of the contrasts of all searches.
        sides: the networks, all of one weight.
        name: of the method.
    """
    if len(sides) < 2:
        return contrast
    repeats = np.stack([contrast.sides[side].mean(0) * len(sides) for side in sides])
    others = {key: side for key, side in contrast.sides.items() if key not in sides}
    return replace(contrast, sides={**others, name: repeats}, repeats={**contrast.repeats, name: tuple(sides)})


def counting_sets(patients: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the data sets that count in means over data sets: those of several patients; all where none has several.

    What one patient's images say holds for this patient: neither an interval nor a test can be given, and a mean over
    data sets would have none either.

    >>> counting_sets({"skin": 120, "polyps": 6, "liver": 1})
    ('skin', 'polyps')
    """
    several = tuple(name for name, count in patients.items() if count > 1)
    return several or tuple(patients)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number by the step-down method of Holm (1979), in their order.

    The k-th smallest of m is multiplied by m - k + 1, and is at least the one before it and at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    found = np.empty(len(order))
    found[order] = np.maximum.accumulate(np.minimum(np.asarray(p_values)[order] * factors, 1.0))
    return [float(p) for p in found]


def flip_p(terms: Floats, *, seed: int = 0) -> Floats:
    """Returns two-sided p-values of sign-flip permutation tests, in which patients keep their images together.

    For statistics that are sums over patients, each of whose terms changes its sign where the two networks compared
    exchange their predictions of that patient. Where the networks are equally good, a term is as likely as its
    opposite. The p-value is the share of flips whose sum is at least as far from 0 as that observed. Up to
    `EXACT_UP_TO` patients all flips are gone through; with more, `FLIPS` random ones and the observed one beside them
    (Phipson and Smyth 2010, "Permutation P-values should never be zero").

    Args:
        terms: (patients,) or (patients, K), what each patient adds to each of K observed statistics.
        seed: of the random flips, which are the same for all K.

    Returns:
        () or (K,), at least `least_p(patients)`; 1 where there is only one patient.
    """
    # Sums of the same numbers in another order, or with all signs changed, must count as equal.
    observed = np.abs(terms.sum(0)) - 1e-12 * np.abs(terms).sum(0)
    exact = len(terms) <= EXACT_UP_TO
    chunks = (np.abs(signs @ terms) >= observed for signs in _signs(len(terms), seed=seed))
    as_far = sum((far.sum(0) for far in chunks), np.zeros(terms.shape[1:]))
    p_values: Floats = as_far / 2 ** len(terms) if exact else (as_far + 1) / (FLIPS + 1)
    return p_values


def flip_interval(terms: Floats, shares: Floats, *, seed: int = 0) -> Interval:
    """Returns all differences that `flip_p` does not reject at `ALPHA`: the 95 % interval that its p-value belongs to.

    Under a true difference d, patient i adds shares[i] * d more than under none, and the test of d is that of the terms
    less this. A flip with signs s is as far as what is observed where |s·terms - s·shares d| >= |sum of terms - d|,
    which holds between two values of d. The interval begins and ends where too few flips are left: no search over d is
    needed, and none is approximate.

    Args:
        terms: what each patient adds (patients,).
        shares: what each would add to a difference of 1 (patients,); positive, sums to 1.
        seed: of the random flips; that of `flip_p`.

    Returns:
        The interval; infinite where so few patients can reject nothing.
    """
    total, lows, highs = float(terms.sum()), [], []
    for signs in _signs(len(terms), seed=seed):
        flipped, flipped_shares = signs @ terms, signs @ shares
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(total - flipped) / (1 - flipped_shares), (total + flipped) / (1 + flipped_shares)])
        # With all signs alike, a flip is as far as what is observed for every d.
        alike = np.isclose(np.abs(flipped_shares), 1, rtol=0, atol=1e-12)
        lows.append(np.where(alike, -np.inf, ends.min(0)))
        highs.append(np.where(alike, np.inf, ends.max(0)))
    exact = len(terms) <= EXACT_UP_TO
    # The number of flips at which p rises above ALPHA, counted from the outside.
    needed = math.floor(ALPHA * 2 ** len(terms)) if exact else math.floor(ALPHA * (FLIPS + 1) - 1)
    low = np.partition(np.concatenate(lows), needed)[needed]
    high = -np.partition(-np.concatenate(highs), needed)[needed]
    return Interval(float(low), float(high))


def least_p(patients: int) -> float:
    """Returns the smallest p that `flip_p` can find with this number of patients.

    >>> least_p(1), least_p(5), least_p(100) < 0.0001
    (1.0, 0.0625, True)
    """
    return 2 / 2**patients if patients <= EXACT_UP_TO else 1 / (FLIPS + 1)


def _signs(patients: int, *, seed: int) -> Iterator[Floats]:
    """Yields signs (flips, patients): all of them up to `EXACT_UP_TO` patients, else `FLIPS` random ones."""
    if patients <= EXACT_UP_TO:
        yield (np.arange(2**patients)[:, None] >> np.arange(patients) & 1) * 2.0 - 1.0
        return
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // patients)
    for start in range(0, FLIPS, rows):
        yield generator.integers(2, size=(min(rows, FLIPS - start), patients), dtype=np.int8) * 2.0 - 1.0


def mean_of_defined(values: Floats, *, axis: int) -> Floats:
    """Returns the mean over an axis of the values that are not nan; nan where there is none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(defined, values, 0).sum(axis) / defined.sum(axis)
    return means
