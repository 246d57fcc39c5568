"""The result file of one student on one benchmark under one mask: scores, intervals, and the protocol behind them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError
from avrt.evaluation.benchmark_options import OURS, BenchmarkOptions
from avrt.evaluation.cards import shard_mismatches
from avrt.evaluation.hallucination import hallucination_rates
from avrt.evaluation.predictions import Prediction
from avrt.evaluation.protocol import NATIVE, engine_name, fingerprint
from avrt.evaluation.scorers import STRICT, Verdict, score
from avrt.evaluation.statistics import Estimate, bootstrap, majority, pass_at_k
from avrt.evaluation.yes_no import yes_no_figures
from avrt.files import write_whole
from avrt.text import clean_all, to_json

RESULT = "result.json"
FORMAT = 2
MINIATURE = 100_000_000
"""A model of fewer parameters is a miniature."""
DIFFICULTY = "difficulty"
DIFFICULTIES = ("easy", "medium", "hard")
"""By the teachers' verdicts: both are right, one is, or none."""
Record = dict[str, Any]


@dataclass
class Result:
    """The result of one benchmark run.

    Attributes:
        student: The student's label.
        benchmark: The benchmark's name.
        mask: The modality mask's name.
        protocol: Everything that decides the score; see `avrt.evaluation.protocol`.
        fingerprint: Hash of the protocol.
        official: Name of the benchmark's own scorer, or None.
        counts: Questions, those expected, failed (could not be asked), cut off, and left out of the shards.
        scores: For each scorer accuracy, interval, right answers, unparsable answers and their share; for yes/no
            questions also `yes_no`, see `avrt.evaluation.yes_no`.
        groups: Accuracy by the headline scorer: field -> value -> estimate.
        headline: Name of the scorer whose figure goes into tables.
        asked_by: Whose protocol it is, such as `avrt` or `nemo_rl`.
        shard_mismatches: Where the shards hold something else than the protocol needs.
        multi_sample: With k > 1 answers per question: majority vote and pass@k.
        hallucination: With a sense masked, how often reasoning claims to perceive it; see
            `avrt.evaluation.hallucination`.
        environment: Versions, devices and speed, which do not change the score.
        config: The configuration of the run, as YAML; `avrt benchmark --replay` runs it again.
    """

    student: str
    benchmark: str
    mask: str
    protocol: Record
    fingerprint: str
    official: str | None
    counts: Record
    scores: dict[str, Record]
    groups: dict[str, dict[str, Record]]
    headline: str = STRICT
    asked_by: str = OURS
    shard_mismatches: list[str] = field(default_factory=list)
    multi_sample: dict[str, Record] = field(default_factory=dict)
    hallucination: dict[str, Record] = field(default_factory=dict)
    environment: Record = field(default_factory=dict)
    config: str = ""

    @property
    def headline_score(self) -> Record:
        """The score by the headline scorer."""
        return self.scores[self.headline]

    @property
    def accuracy(self) -> Estimate:
        """The headline figure: accuracy by the headline scorer."""
        return Estimate.from_record(self.headline_score)

    @property
    def strict_accuracy(self) -> Estimate:
        """Accuracy by the strict scorer, which every benchmark run reports."""
        return Estimate.from_record(self.scores[STRICT])

    @property
    def official_accuracy(self) -> Estimate | None:
        """Accuracy by the benchmark's own scorer, where it has one."""
        return None if self.official is None else Estimate.from_record(self.scores[self.official])

    @property
    def miniature(self) -> bool | None:
        """Whether the student is a miniature such as `nano`; None where the result does not state its size."""
        parameters = self.environment.get("parameters")
        if parameters is None:
            return True if self.environment.get("source") == "nano" else None
        return int(parameters) < MINIATURE

    @property
    def engine(self) -> str:
        """The engine that answered, with its version."""
        return engine_name(self.protocol)

    @property
    def other_engine(self) -> str:
        """The same as the end of a label, such as `, answered by vllm 0.32.0`; empty for the native engine."""
        return "" if self.engine == NATIVE else f", answered by {self.engine}"

    @property
    def display_name(self) -> str:
        """The student's label; that of a miniature says so."""
        return self.student + (" (nano student)" if self.miniature else "")

    def save(self, folder: Path) -> Path:
        """Write `result.json`, whole or not at all."""
        path = folder / RESULT
        write_whole(path, to_json({"format": FORMAT, **asdict(self)}, indent=1).encode())
        return path

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a result file.

        Raises:
            AvrtError: If the file is missing, damaged or of another format.
        """
        if not path.is_file():
            raise AvrtError("no such result file", where=path)
        try:
            record = clean_all(json.loads(path.read_bytes()))
            version = record.pop("format")
            if version != FORMAT:
                raise AvrtError(
                    f"result format {version}, this avrt reads {FORMAT}", where=path, remedy="run the benchmark again"
                )
            result = cls(**record)
            if result.headline not in result.scores:
                raise AvrtError(f"has no score by its headline scorer, {result.headline}", where=path)
            return result
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AvrtError(f"not a result file: {error}", where=path) from None


def verdicts(predictions: Sequence[Prediction], scorer: str) -> list[list[Verdict]]:
    """For each question the verdict on each of its answers; an empty list where it could not be asked."""
    return [[score(scorer, response, p.sample()) for response in p.responses] for p in predictions]


def mean_credits(predictions: Sequence[Prediction], scorer: str) -> list[float]:
    """For each question the mean credit of its answers, from 0 to 1; 0 where it could not be asked."""
    return [mean_credit(answers) for answers in verdicts(predictions, scorer)]


def mean_credit(answers: Sequence[Verdict]) -> float:
    """The mean credit of the answers to one question, from 0 to 1; 0 without answers."""
    return sum(v.credit for v in answers) / len(answers) if answers else 0.0


def result_fields(
    predictions: Sequence[Prediction], benchmark: BenchmarkOptions, protocol: Mapping[str, Any], mask: str
) -> Record:
    """Score predictions: every field of a `Result` that follows from them.

    Questions without a known answer are left out; those that could not be asked count as wrong.
    """
    known = [p for p in predictions if p.answer is not None]
    credit = mean_credits(known, benchmark.headline_scorer)
    return {
        "benchmark": benchmark.name,
        "mask": mask,
        "protocol": dict(protocol),
        "fingerprint": fingerprint(protocol),
        "official": benchmark.official,
        "headline": benchmark.headline_scorer,
        "asked_by": benchmark.protocol,
        "shard_mismatches": shard_mismatches(benchmark.needs, protocol),
        "counts": {
            "questions": len(known),
            "expected": benchmark.expected,
            "failed": sum(p.error is not None for p in known),
            "cut_off": sum(not all(p.finished) for p in known),
        },
        "scores": {name: _score_record(known, name) for name in benchmark.scorers},
        "groups": {name: group_records(known, credit, name) for name in [*benchmark.group_by, DIFFICULTY]},
        "multi_sample": _multi_sample_records(known, benchmark),
        "hallucination": hallucination_rates([response for p in known for response in p.responses], mask),
    }


def _score_record(predictions: Sequence[Prediction], scorer: str) -> Record:
    """Accuracy, counts and, for yes/no questions, their figures by one scorer."""
    judged = verdicts(predictions, scorer)
    answers = sum(len(v) for v in judged)
    unparsable = sum(v.choice is None for each in judged for v in each)
    yes_no = yes_no_figures(predictions, judged)
    return {
        **bootstrap([mean_credit(each) for each in judged]).to_record(),
        "right": sum(v.correct for each in judged for v in each),
        "unparsable": unparsable,
        "unparsable_share": unparsable / max(1, answers),
        **({"yes_no": yes_no} if yes_no else {}),
    }


def group_values(prediction: Prediction, name: str) -> list[str]:
    """The groups that a question belongs to, by one of `BenchmarkOptions.group_by`; a list gives one for each entry."""
    if name == "choices":
        return [str(len(prediction.choices))]
    value = getattr(prediction, name) if name in ("question_type", "relation") else prediction.metadata.get(name)
    values = value if isinstance(value, (list, tuple)) else [value]
    return list(dict.fromkeys(str(one) for one in values if one is not None))


def group_records(predictions: Sequence[Prediction], credit: Sequence[float], name: str) -> dict[str, Record]:
    """Accuracy by group.

    Args:
        predictions: Questions with a known answer.
        credit: The credit of each; see `mean_credits`.
        name: What to group by; see `BenchmarkOptions.group_by`.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for prediction, value in zip(predictions, credit, strict=True):
        for group in group_values(prediction, name):
            groups[group].append(value)
    return {group: bootstrap(groups[group]).to_record() for group in in_group_order(groups, name)}


def in_group_order(groups: Iterable[str], name: str) -> list[str]:
    """The values of a field in the order of tables: difficulties from easy to hard, numbers by size, others by name."""
    order = DIFFICULTIES if name == DIFFICULTY else ()

    def key(value: str) -> tuple[int, int, str]:
        place = order.index(value) if value in order else len(order)
        return place, int(value) if value.isascii() and value.isdigit() else 0, value

    return sorted(groups, key=key)


def _multi_sample_records(predictions: Sequence[Prediction], benchmark: BenchmarkOptions) -> dict[str, Record]:
    """Majority vote and pass@k by the headline scorer, where several answers were sampled per question."""
    if benchmark.samples == 1:
        return {}
    judged = verdicts(predictions, benchmark.headline_scorer)
    elected = [majority([v.choice for v in each], tie="first") for each in judged]
    voted = [float(choice == p.answer) for p, choice in zip(predictions, elected, strict=True)]
    found = {f"majority@{benchmark.samples}": bootstrap(voted).to_record()}
    for k in benchmark.pass_at:
        chances = [pass_at_k(len(v), sum(x.correct for x in v), k) if v else 0.0 for v in judged]
        found[f"pass@{k}"] = bootstrap(chances).to_record()
    return found
