"""Verdicts on a study's claims: whether an ordering holds, does not, or cannot be told, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avrt.evaluation.paired_effects import (
    AnswerGrid,
    Effect,
    Layout,
    compare_grids,
    holm,
    paired,
    pooled_weight,
    together,
)
from avrt.evaluation.power import Design, Power, PowerSpec, expected_error, found_with
from avrt.evaluation.student_t import two_sided_p
from avrt.study.cells import MEASURES, Cells, Measure, NothingToCompareError, check_same_questions
from avrt.study.claims import ClaimSpec

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"


@dataclass(frozen=True)
class ClaimResult:
    """A claim with what the study found.

    Attributes:
        claim: The claim.
        first: Accuracy of the first cell, 0 to 1, over the seeds that both have.
        second: Accuracy of the second.
        effect: First minus second.
        strict: The same by the strict scorer, which asks for the form as well.
        form: First minus second of the shares of answers in the asked form.
        p_corrected: The p-value corrected for the number of claims.
        verdict: One of `HOLDS`, `FAILS` and `UNKNOWN`.
        stated: The power that follows from the assumptions.
        had: The power that the comparison had, by its own error.
        shared: Where the error holds no chance of seeds, in words; empty where both students have several.
    """

    claim: ClaimSpec
    first: float
    second: float
    effect: Effect
    strict: Effect
    form: Effect
    p_corrected: float
    verdict: str
    stated: Power
    had: Power
    shared: str

    def to_record(self) -> dict[str, Any]:
        """As `verdicts.json` has it; differences in points, accuracies in per cent."""
        effect = self.effect
        return {
            "id": self.claim.id,
            "source": self.claim.source,
            "text": self.claim.text,
            "benchmark": self.claim.benchmark,
            "published": self.claim.published,
            "difference": round(100 * effect.difference, 4),
            "low": round(100 * effect.low, 4),
            "high": round(100 * effect.high, 4),
            "p": effect.p,
            "p_corrected": self.p_corrected,
            "verdict": self.verdict,
            "first": round(100 * self.first, 4),
            "second": round(100 * self.second, 4),
            "seeds": effect.seeds,
            "clips": effect.clips,
            "questions": effect.questions,
            "difference_strict": round(100 * self.strict.difference, 4),
            "difference_in_form": round(100 * self.form.difference, 4),
            "error": round(100 * effect.error, 4),
            "freedom": round(effect.freedom, 2),
            "seed_sd": round(100 * effect.seed_sd, 4),
            "smallest_stated": round(self.stated.smallest, 2),
            "smallest_had": round(self.had.smallest, 2),
        }


def comparable(cells: Cells, claims: Sequence[ClaimSpec]) -> tuple[list[ClaimSpec], dict[str, str]]:
    """The claims that can be compared, and for each other one why it cannot: no questions, no clips, or no seeds.

    Raises:
        AvrtError: If a cell was not asked.
    """
    found, left_out = [], {}
    for claim in claims:
        try:
            _compared(claim, *_grids(cells, claim, "headline"))
            found.append(claim)
        except NothingToCompareError as error:
            left_out[claim.id] = error.what
    return found, left_out


def judge(
    cells: Cells, claims: Sequence[ClaimSpec], seeds: int, fewer: Mapping[str, int], assumed: PowerSpec
) -> list[ClaimResult]:
    """Every claim with its verdict.

    Args:
        cells: The answers.
        claims: The claims.
        seeds: The number of seeds that was declared, for the power as it is stated beforehand.
        fewer: Student -> with how many of them it was trained, where these are not all.
        assumed: The assumptions of power, and what counts as a difference.

    Raises:
        AvrtError: If a cell was not asked, or a claim cannot be compared; see `comparable`.
    """
    grids = {measure: [_grids(cells, claim, measure) for claim in claims] for measure in MEASURES}
    effects, strict, form = (
        together([_compared(c, *g) for c, g in zip(claims, pairs, strict=True)], _independent(claims, cells.once))
        for pairs in grids.values()
    )
    corrected = holm([effect.p for effect in effects])
    below = holm([_below(e, c.sign, _least(c, assumed)) for e, c in zip(effects, claims, strict=True)])
    sizes = {claim.benchmark: _size(cells, claim) for claim in claims}
    stated = stated_power(claims, sizes, seeds, fewer, cells.once, assumed)
    found = []
    for i, (claim, grid) in enumerate(zip(claims, grids["headline"], strict=True)):
        effect, (first, second) = effects[i], paired(*grid)
        found.append(
            ClaimResult(
                claim=claim,
                first=first.accuracy,
                second=second.accuracy,
                effect=effect,
                strict=strict[i],
                form=form[i],
                p_corrected=corrected[i],
                verdict=verdict(effect, claim.sign, assumed.level, p_corrected=corrected[i], p_below=below[i]),
                stated=stated[i],
                had=found_with(100 * effect.error, effect.freedom, assumed, len(claims), claim.published),
                shared=_shared(cells, claim, effect.seeds),
            )
        )
    return found


def verdict(effect: Effect, sign: int, level: float, *, p_corrected: float, p_below: float) -> str:
    """The verdict on a difference whose claimed sign is 1 or -1.

    It holds if it differs from 0 with the claimed sign. It does not hold if it differs from 0 with the other one, or
    lies below the smallest difference that counts.

    Args:
        effect: The difference.
        sign: The claimed sign.
        level: The level of all claims together.
        p_corrected: Of no difference, corrected for the number of claims.
        p_below: Of a difference that counts, corrected in the same way.
    """
    if p_corrected < level:
        return HOLDS if sign * effect.difference > 0 else FAILS
    return FAILS if p_below < level else UNKNOWN


def _least(claim: ClaimSpec, assumed: PowerSpec) -> float:
    """The smallest difference that counts for a claim: no more than the published one, as a share."""
    published = assumed.least if claim.published is None else abs(claim.published)
    return min(assumed.least, published) / 100


def _below(effect: Effect, sign: int, least: float) -> float:
    """The p-value of a difference of at least `least` in the claimed direction; 1 where it is so large."""
    short = least - sign * effect.difference
    if short <= 0:
        return 1.0
    return two_sided_p(short / effect.error, effect.freedom) if effect.error > 1e-12 else 0.0


def design(claim: ClaimSpec, seeds: int, clips: int, questions: int, pooled: int) -> Design:
    """How much a claim's comparison asks, as far as the declaration says."""
    (_, first), (_, second) = claim.cells()
    grouped = bool(first.group or second.group)
    return Design(seeds, clips, questions, grouped=grouped, unpaired=unpaired(claim), pooled=pooled)


def unpaired(claim: ClaimSpec) -> bool:
    """Whether a claim is about two groups of questions, or two benchmarks, so that no answers belong together."""
    (_, first), (_, second) = claim.cells()
    return first.group != second.group or (first.benchmark or second.benchmark) is not None


def stated_power(
    claims: Sequence[ClaimSpec],
    sizes: Mapping[str, tuple[int, int]],
    seeds: int,
    fewer: Mapping[str, int],
    once: frozenset[str],
    assumed: PowerSpec,
) -> list[Power]:
    """The power of each claim's comparison from the assumptions alone, which can be stated before the run.

    Args:
        claims: The claims.
        sizes: Benchmark -> its clips and its questions.
        seeds: Number of seeds.
        fewer: Student -> its number of seeds, where that is smaller.
        once: Students of which one model stands for every seed.
        assumed: The assumptions.
    """
    students = [{claim.first.student, claim.second.student} - once for claim in claims]
    several = [min((fewer.get(name, seeds) for name in names), default=1) for names in students]
    found = []
    for claim, number in zip(claims, several, strict=True):
        others = sum(1 < number <= of_other for of_other in several) - 1
        pooled = pooled_weight(others, _independent(claims, once))
        error, freedom = expected_error(assumed, design(claim, number, *sizes[claim.benchmark], pooled))
        found.append(found_with(error, freedom, assumed, len(claims), claim.published))
    return found


def _grids(cells: Cells, claim: ClaimSpec, measure: Measure) -> tuple[AnswerGrid, AnswerGrid]:
    first, second = (cells.grid(c.student, benchmark, c.mask, c.group, measure) for benchmark, c in claim.cells())
    return first, second


def _compared(claim: ClaimSpec, first: AnswerGrid, second: AnswerGrid) -> Layout:
    if not unpaired(claim):
        check_same_questions(first, second, f"claim {claim.id}")
    try:
        return compare_grids(first, second)
    except ValueError as error:
        raise NothingToCompareError(str(error), where=f"claim {claim.id}") from None


def _independent(claims: Sequence[ClaimSpec], once: frozenset[str]) -> int:
    """How many students were trained beside those of one claim."""
    return len({cell.student for claim in claims for _, cell in claim.cells()} - once) - 2


def _size(cells: Cells, claim: ClaimSpec) -> tuple[int, int]:
    """Clips and questions of the claim's benchmark, whatever groups the cells are about."""
    benchmark, cell = claim.cells()[0]
    whole = cells.grid(cell.student, benchmark, cell.mask, {})
    return len(set(whole.clips)), len(whole.clips)


def _shared(cells: Cells, claim: ClaimSpec, seeds: int) -> str:
    """Where the error holds no chance of seeds: one model for all of them, or one seed alone."""
    students = dict.fromkeys(cell.student for _, cell in claim.cells())
    same = [name for name in students if name in cells.once]
    if same:
        return f"{' and '.join(same)}: one model for all seeds"
    return "one seed: nothing is known of others" if seeds == 1 else ""
