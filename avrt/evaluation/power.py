"""Power stated before a study: the smallest difference that its seeds and questions find, from assumptions alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from avrt.errors import AvrtError
from avrt.evaluation.paired_effects import combined
from avrt.evaluation.student_t import power, shift_found


@dataclass
class PowerSpec:
    """What is assumed before the run, and what counts as a difference.

    Attributes:
        seed_sd: Standard deviation over seeds of the difference of two students, in points, were the questions endless.
        discordant: Share of the questions that one of two students alone answers rightly.
        questions_per_clip_correlation: Correlation of the differences of two questions about one clip.
        seeds_correlation: Correlation of the differences of one question in two seeds: what more seeds do not average
            out, but more questions do.
        group_share: Share of the questions in a group, such as a difficulty, where a claim is about one.
        power: The chance to find a difference that "the smallest difference found" is for.
        level: The level of all claims together.
        least: The smallest difference that counts, in points.
    """

    seed_sd: float = 2.0
    discordant: float = 0.25
    questions_per_clip_correlation: float = 0.1
    seeds_correlation: float = 0.3
    group_share: float = 1 / 3
    power: float = 0.8
    level: float = 0.05
    least: float = 2.0

    def __post_init__(self) -> None:
        for name in ("discordant", "power", "level", "group_share"):
            if not 0 < getattr(self, name) < 1:
                raise AvrtError(f"is {getattr(self, name):g}; a share between 0 and 1", where=f"power.{name}")
        for name in ("questions_per_clip_correlation", "seeds_correlation"):
            if not 0 <= getattr(self, name) <= 1:
                raise AvrtError(f"is {getattr(self, name):g}; a correlation from 0 to 1", where=f"power.{name}")
        for name in ("seed_sd", "least"):
            if getattr(self, name) < 0:
                raise AvrtError(f"is {getattr(self, name):g}; points from 0 up", where=f"power.{name}")


@dataclass(frozen=True)
class Design:
    """How much a comparison asks.

    Attributes:
        seeds: Seeds of which both cells have one; 1 where both students are one model for all.
        clips: Clips of the benchmark.
        questions: Questions of the benchmark.
        grouped: The cells are about a group of the questions.
        unpaired: The cells are about different questions.
        pooled: For how many comparisons others count in what is known of seeds; see `paired_effects.pooled_weight`.
    """

    seeds: int
    clips: int
    questions: int
    grouped: bool = False
    unpaired: bool = False
    pooled: int = 0


@dataclass(frozen=True)
class Power:
    """What a comparison finds, in points.

    Attributes:
        error: Standard error of the difference.
        freedom: Degrees of freedom of the error.
        smallest: The smallest difference found with the wanted chance.
        published: The chance to find the published difference, 0 to 1; None where there is none.
    """

    error: float
    freedom: float
    smallest: float
    published: float | None


def expected_error(assumed: PowerSpec, design: Design) -> tuple[float, float]:
    """The standard error in points and its degrees of freedom, by the model of `avrt.evaluation.paired_effects`.

    A question's difference has the variance d, the discordant share; answers to different questions have 1/4 each, the
    most that there is. The mean of m questions about a clip has d (1 + (m - 1) rho) / m. Of this the part
    `seeds_correlation` is the clip's in every seed, the remainder is drawn anew.
    """
    share = assumed.group_share if design.grouped or design.unpaired else 1.0
    asked = design.questions * share
    of_clip = max(1.0, asked / design.clips)
    one = 0.25 * 2 if design.unpaired else assumed.discordant
    total = one * (1 + (of_clip - 1) * assumed.questions_per_clip_correlation) * design.clips / asked
    clip, rest = total * assumed.seeds_correlation, total * (1 - assumed.seeds_correlation)
    if design.seeds == 1:
        return 100 * math.sqrt(total / design.clips), float(design.clips - 1)
    seed = (assumed.seed_sd / 100) ** 2
    m_seed = (design.clips * seed + rest) * _raised(design.seeds - 1, design.pooled)
    m_clip = design.seeds * clip + rest
    variance, freedom = combined(
        m_seed, m_clip, rest, design.seeds, design.clips, (design.seeds - 1) * (1 + design.pooled)
    )
    return 100 * math.sqrt(variance), freedom


def _raised(freedom: int, pooled: int) -> float:
    """By how much the mean square of seeds is raised on average, because it counts where it is above the others' mean.

    A mean square of f degrees of freedom exceeds its expectation by k^(k - 1) exp(-k) / Gamma(k) on average, k = f / 2
    (half the mean deviation of the gamma distribution); of this, `pooled` / (`pooled` + 1) is not averaged away.
    """
    k = freedom / 2
    return 1 + pooled / (pooled + 1) * math.exp((k - 1) * math.log(k) - k - math.lgamma(k))


def found_with(error: float, freedom: float, assumed: PowerSpec, claims: int, published: float | None = None) -> Power:
    """What a comparison finds at the level that Holm's correction asks of the first of several claims.

    Args:
        error: Standard error in points.
        freedom: Its degrees of freedom.
        assumed: Level and wanted chance.
        claims: Number of claims that are tested together.
        published: The published difference in points.
    """
    level = assumed.level / max(1, claims)
    if not error:
        return Power(error, freedom, 0.0, None if published is None else float(published != 0))
    smallest = error * shift_found(freedom, level, assumed.power)
    chance = None if published is None else power(abs(published) / error, freedom, level)
    return Power(error, freedom, smallest, chance)
