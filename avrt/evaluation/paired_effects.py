"""Differences of two students over seeds and questions: standard error, interval and p from one crossed model.

The answers of a student are a grid: seeds times questions, and questions about one clip belong together. A clip's
contribution to a difference is a number z[s, c] whose mean over seeds and clips is the difference of the two
accuracies, and z = difference + seed + clip + rest, drawn independently. Which seeds and which clips were drawn is
chance, so the error of the mean holds the variance of all three.

The variance comes from the mean squares of the two-way layout, M_s, M_c and M_r of seeds, clips and the rest:
(M_s + M_c - M_r) / (S C), each of M_s and M_c no less than M_r, with degrees of freedom after Satterthwaite (1946).

M_s of three seeds has 2 degrees of freedom: alone it would find next to nothing, and Satterthwaite's form errs in the
far tail where a few seeds happened to agree. So comparisons that are made together share what they know of seeds, as
in Smyth's moderated t (2004): M_s / M_r of a comparison is averaged with the mean of the others', which weighs as
much as `POOLED` comparisons, or fewer where fewer students were trained, and adds as many degrees of freedom; only
comparisons of as many seeds or more are taken. The average counts only where it is above the comparison's own M_s:
students whose seeds differ more than others' are not made surer.

Simulated with 14 students, 13 to 15 claims without a difference, 150 clips and 2 to 6 seeds, whose spread is equal (0
to 5 points), of two sizes, drawn from a range, or large for one student alone (6 points against 0.5); mean squares
were drawn from their distributions, 1,500 studies of each kind. In spite of Holm's correction some claim is found in
0.2 to 7 % of studies (wanted: at most 5), and a p is below 0.05 in 2 to 5 %; for the one student of wild seeds in up
to 10 %, 15 % with two seeds. Without sharing, up to 16 % of studies err, and with 3 seeds of spread 1 a difference of
8 points is found in 42 % instead of 73; where spreads differ or are large, sharing finds up to 7 % less. Also tried:
sharing without "only where above", up to 10 % of studies and 20 % for the wild student; weights of 2 and 5, and one
that is estimated, each within 3 % of the same. Simulated answers of two students alone, by a probit model: intervals
over clips err in up to 39 % of comparisons, M_s + M_c, as the pigeonhole bootstrap has it (Owen 2007), in up to 11 %,
both with 2 seeds or more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avrt.evaluation.predictions import Prediction
from avrt.evaluation.student_t import quantile, two_sided_p

CLIP = "clip"
LEVEL = 0.95
POOLED = 3
"""How many comparisons the others count for, at most, in what is known of seeds."""


def clip_of(prediction: Prediction) -> str:
    """The clip that a question is about: the field `clip` of its metadata, else its id up to the last `-`."""
    named = prediction.metadata.get(CLIP)
    return str(named) if named is not None else prediction.id.rpartition("-")[0] or prediction.id


@dataclass(frozen=True)
class AnswerGrid:
    """What a student got for each question with each seed.

    Attributes:
        credit: (S, Q) from 0 (wrong) to 1 (right).
        seeds: (S,) the seeds' numbers.
        clips: (Q,) the clip of each question; names of different clips differ in all grids that are compared.
        once: One model stands for every seed, so that S is 1.
    """

    credit: np.ndarray
    seeds: tuple[int, ...]
    clips: tuple[str, ...]
    once: bool = False

    def __post_init__(self) -> None:
        if self.credit.shape != (len(self.seeds), len(self.clips)) or not self.credit.size:
            raise ValueError(f"{self.credit.shape} answers for {len(self.seeds)} seeds, {len(self.clips)} questions")

    @property
    def accuracy(self) -> float:
        """The mean credit, from 0 to 1."""
        return float(self.credit.mean())

    def of_seeds(self, seeds: Sequence[int]) -> AnswerGrid:
        """The part of some seeds, in their order; a model that stands for every seed is repeated."""
        rows = [0 if self.once else self.seeds.index(seed) for seed in seeds]
        return AnswerGrid(self.credit[rows], tuple(seeds), self.clips)

    def contributions(self, clips: Sequence[str]) -> np.ndarray:
        """(S, C): each clip's contribution; their mean over clips is each seed's accuracy.

        The accuracy is a ratio, right answers over questions, and clips may have different numbers of questions or
        none. It is linearized about its mean a (Cochran 1977, 6.3): a + C / Q times the sum of (credit - a) over the
        clip's questions.
        """
        place = {clip: i for i, clip in enumerate(clips)}
        sums = np.zeros((len(clips), len(self.seeds)))
        np.add.at(sums, np.array([place[clip] for clip in self.clips]), (self.credit - self.accuracy).T)
        return self.accuracy + sums.T * len(clips) / len(self.clips)


@dataclass(frozen=True)
class Effect:
    """A mean over seeds and clips with its error, as a share from -1 to 1.

    Attributes:
        difference: The mean.
        error: Its standard error.
        freedom: Degrees of freedom of the error.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided p-value of no difference.
        seeds: Number of seeds; 1 where all answers are one model's, and the error then holds no chance of seeds.
        clips: Number of clips.
        questions: Number of questions of the larger group.
        seed_sd: Standard deviation over seeds, without the questions' chance.
    """

    difference: float
    error: float
    freedom: float
    low: float
    high: float
    p: float
    seeds: int
    clips: int
    questions: int
    seed_sd: float


@dataclass(frozen=True)
class Layout:
    """The mean squares of (S, C) contributions; those of one seed have none but the clips'.

    Attributes:
        mean: The mean.
        m_seed: Mean square of seeds.
        m_clip: Mean square of clips.
        m_rest: Mean square of the rest.
        seeds: S.
        clips: C.
        questions: Number of questions of the larger group.
    """

    mean: float
    m_seed: float
    m_clip: float
    m_rest: float
    seeds: int
    clips: int
    questions: int

    @classmethod
    def of(cls, z: np.ndarray, questions: int) -> Layout:
        """The layout of contributions.

        Raises:
            ValueError: If there is one clip alone.
        """
        seeds, clips = z.shape
        if clips < 2:
            raise ValueError("one clip alone has no interval")
        mean = float(z.mean())
        by_seed, by_clip = z.mean(1) - mean, z.mean(0) - mean
        m_clip = seeds * float((by_clip**2).sum()) / (clips - 1)
        if seeds == 1:
            return cls(mean, 0.0, m_clip, 0.0, seeds, clips, questions)
        rest = z - mean - by_seed[:, None] - by_clip
        m_rest = float((rest**2).sum()) / ((seeds - 1) * (clips - 1))
        m_seed = clips * float((by_seed**2).sum()) / (seeds - 1)
        return cls(mean, m_seed, m_clip, m_rest, seeds, clips, questions)

    @property
    def seed_ratio(self) -> float | None:
        """M_s / M_r, 1 where seeds make no difference; None without several seeds, or without anything random."""
        return self.m_seed / self.m_rest if self.seeds > 1 and self.m_rest > 1e-15 else None

    def effect(self, others: Sequence[float] = (), weight: int = 0) -> Effect:
        """The mean with its error, interval and p.

        Args:
            others: The seed ratios of other comparisons.
            weight: How many comparisons their mean counts for.
        """
        weight = weight if others and self.seeds > 1 else 0
        if self.seeds == 1:
            variance, freedom = self.m_clip / self.clips, float(self.clips - 1)
        else:
            m_seed = max(self.m_seed, self.m_rest)
            if weight:
                shared = (weight * sum(others) / len(others) * self.m_rest + self.m_seed) / (weight + 1)
                m_seed = max(m_seed, shared)
            m_clip, seed_freedom = max(self.m_clip, self.m_rest), (self.seeds - 1) * (1 + weight)
            variance, freedom = combined(m_seed, m_clip, self.m_rest, self.seeds, self.clips, seed_freedom)
        error = math.sqrt(variance)
        if error < 1e-12:  # every clip and seed has the same contribution
            width, p = 0.0, float(abs(self.mean) < 1e-12)
        else:
            width, p = quantile((1 + LEVEL) / 2, freedom) * error, two_sided_p(self.mean / error, freedom)
        return Effect(
            difference=self.mean,
            error=error,
            freedom=freedom,
            low=self.mean - width,
            high=self.mean + width,
            p=p,
            seeds=self.seeds,
            clips=self.clips,
            questions=self.questions,
            seed_sd=math.sqrt(max(0.0, self.m_seed - self.m_rest) / self.clips),
        )


def together(layouts: Sequence[Layout], independent: int) -> list[Effect]:
    """The effects of comparisons that are made together, which share what they know of seeds.

    Args:
        layouts: The comparisons.
        independent: How many students were trained beside those of one comparison.
    """
    found = []
    for layout in layouts:
        # Those of fewer seeds know less of them than the degrees of freedom that are added stand for.
        known = [other.seed_ratio for other in layouts if other is not layout and other.seeds >= layout.seeds]
        others = [ratio for ratio in known if ratio is not None]
        found.append(layout.effect(others, pooled_weight(len(others), independent)))
    return found


def pooled_weight(others: int, independent: int) -> int:
    """How many comparisons the mean of the others counts for; see the module's docstring."""
    return max(0, min(POOLED, others, independent))


def paired(first: AnswerGrid, second: AnswerGrid) -> tuple[AnswerGrid, AnswerGrid]:
    """Both with the seeds that both have; a model that stands for every seed is repeated.

    Raises:
        ValueError: If they have no seed in common.
    """
    if first.once and second.once:
        seeds: list[int] = [first.seeds[0]]
    else:
        several = [grid for grid in (first, second) if not grid.once]
        seeds = sorted(set.intersection(*(set(grid.seeds) for grid in several)))
    if not seeds:
        raise ValueError(f"no seed in common: {list(first.seeds)} and {list(second.seeds)}")
    return first.of_seeds(seeds), second.of_seeds(seeds)


def compare_grids(first: AnswerGrid, second: AnswerGrid) -> Layout:
    """First minus second, over the seeds that both have.

    A model that stands for every seed is taken as it is: against a student with several, the error holds the other's
    chance alone.

    Raises:
        ValueError: If they have no seed in common, or there is one clip alone.
    """
    first, second = paired(first, second)
    clips = sorted({*first.clips, *second.clips})
    z = first.contributions(clips) - second.contributions(clips)
    return Layout.of(z, max(len(first.clips), len(second.clips)))


def grid_layout(grid: AnswerGrid) -> Layout:
    """A student's accuracy by the same model."""
    return Layout.of(grid.contributions(sorted(set(grid.clips))), len(grid.clips))


def combined(
    m_seed: float, m_clip: float, m_rest: float, seeds: int, clips: int, seed_freedom: int
) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom, from mean squares of a layout of S > 1 seeds and C clips."""
    total = m_seed + m_clip - m_rest
    spread = m_seed**2 / seed_freedom + m_clip**2 / (clips - 1) + m_rest**2 / ((seeds - 1) * (clips - 1))
    return total / (seeds * clips), total**2 / spread if spread else float(clips - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number after Holm (1979), in their order."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected
