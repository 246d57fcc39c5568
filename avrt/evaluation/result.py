"""The result file of one student on one benchmark under one mask: figures, intervals, and the protocol behind them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError
from avrt.evaluation.benchmark import OURS, BenchmarkOptions
from avrt.evaluation.cards import misfits
from avrt.evaluation.claims import honesty
from avrt.evaluation.protocol import fingerprint
from avrt.evaluation.records import Prediction
from avrt.evaluation.scorers import STRICT, Verdict, score
from avrt.evaluation.statistics import Estimate, bootstrap, majority, pass_at_k
from avrt.evaluation.yes_no import yes_no_figures
from avrt.files import write_whole
from avrt.text import clean_all, to_json

RESULT = "result.json"
FORMAT = 1
MINIATURE = 100_000_000
"""A model of fewer parameters is a miniature, whatever it is called."""


@dataclass
class Result:
    """What one run of a benchmark came to.

    Attributes:
        student: The student's label.
        benchmark: The benchmark's name.
        mask: The modality mask's name.
        protocol: Everything that decides the score; see `avrt.evaluation.protocol`.
        fingerprint: Hash of the protocol.
        official: Name of the benchmark's own scorer, or None.
        counts: Questions, those expected, failed (could not be asked), cut off, and left out of the shards.
        scores: For each scorer accuracy, interval, right answers, unparsable answers and their share; of yes/no
            questions also `yes_no`, see `avrt.evaluation.yes_no`.
        groups: Accuracy under the headline's rule: field -> value -> estimate.
        headline: Name of the rule whose figure goes into tables.
        asked_by: Whose way of asking it was, such as `avrt` or `nemo_rl`.
        unfit: What in the shards does not fit that way of asking.
        several: With k > 1 answers per question: majority and pass@k.
        honesty: With a sense hidden, how often reasoning claims to have used it; see `avrt.evaluation.claims`.
        environment: Versions, devices, speed: what should not matter.
        config: The configuration that made it, as YAML; `avrt benchmark --replay` runs it again.
    """

    student: str
    benchmark: str
    mask: str
    protocol: dict[str, Any]
    fingerprint: str
    official: str | None
    counts: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, dict[str, Any]]]
    headline: str = STRICT
    asked_by: str = OURS
    unfit: list[str] = field(default_factory=list)
    several: dict[str, dict[str, Any]] = field(default_factory=dict)
    honesty: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    config: str = ""

    @property
    def score(self) -> dict[str, Any]:
        """Accuracy and interval under the headline's rule."""
        return self.scores[self.headline]

    @property
    def miniature(self) -> bool | None:
        """Whether the student is a miniature such as `nano`; None where the result does not say how large it is."""
        parameters = self.environment.get("parameters")
        if parameters is None:
            return True if self.environment.get("source") == "nano" else None
        return int(parameters) < MINIATURE

    @property
    def own_name(self) -> str:
        """The student's label; a miniature says that it is one."""
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
            AvrtError: If there is none, or it is of another format.
        """
        if not path.is_file():
            raise AvrtError("no such result file", where=path)
        try:
            record = clean_all(json.loads(path.read_bytes()))
            version = record.pop("format")
            if version != FORMAT:
                raise AvrtError(f"result format {version}, this avrt reads {FORMAT}", where=path)
            result = cls(**record)
            if result.headline not in result.scores:
                raise AvrtError(f"has no score by its headline's rule, {result.headline}", where=path)
            return result
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AvrtError(f"not a result file: {error}", where=path) from None


def verdicts(predictions: Sequence[Prediction], scorer: str) -> list[list[Verdict]]:
    """For each question the verdict on each of its answers; none where it could not be asked."""
    return [[score(scorer, response, p.sample()) for response in p.responses] for p in predictions]


def correctness(predictions: Sequence[Prediction], scorer: str) -> list[float]:
    """For each question what its answers are worth on average, from 0 to 1; 0 where it could not be asked."""
    return [worth(judged) for judged in verdicts(predictions, scorer)]


def worth(judged: Sequence[Verdict]) -> float:
    """What the answers to one question are worth on average, from 0 to 1; 0 without any."""
    return sum(v.credit for v in judged) / len(judged) if judged else 0.0


def figures(
    predictions: Sequence[Prediction], benchmark: BenchmarkOptions, protocol: Mapping[str, Any], mask: str
) -> dict[str, Any]:
    """Everything that predictions come to, as fields of a `Result`.

    Questions without a known answer count for nothing; those that could not be asked count as wrong.
    """
    known = [p for p in predictions if p.answer is not None]
    shares = correctness(known, benchmark.rule)
    return {
        "benchmark": benchmark.name,
        "mask": mask,
        "protocol": dict(protocol),
        "fingerprint": fingerprint(protocol),
        "official": benchmark.official,
        "headline": benchmark.rule,
        "asked_by": benchmark.protocol,
        "unfit": misfits(benchmark.needs, protocol),
        "counts": {
            "questions": len(known),
            "expected": benchmark.expected,
            "failed": sum(p.error is not None for p in known),
            "cut_off": sum(not all(p.finished) for p in known),
        },
        "scores": {name: _scored(known, name) for name in benchmark.scorers},
        "groups": {name: _grouped(known, shares, name) for name in dict.fromkeys([*benchmark.group_by, "difficulty"])},
        "several": _several(known, benchmark, benchmark.rule),
        "honesty": honesty([r for p in known for r in p.responses], mask),
    }


def _scored(predictions: Sequence[Prediction], scorer: str) -> dict[str, Any]:
    judged = verdicts(predictions, scorer)
    answers = sum(len(v) for v in judged)
    unparsable = sum(v.choice is None for each in judged for v in each)
    return {
        **_estimate(bootstrap([worth(each) for each in judged])),
        "right": sum(v.correct for each in judged for v in each),
        "unparsable": unparsable,
        "unparsable_share": unparsable / max(1, answers),
        **({"yes_no": found} if (found := yes_no_figures(predictions, judged)) else {}),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "accuracy": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "count": estimate.count,
    }


def group_values(prediction: Prediction, name: str) -> list[str]:
    """The groups that a question belongs to; see `BenchmarkOptions.group_by`. One of a list belongs to each entry's."""
    if name == "choices":
        return [str(len(prediction.choices))]
    value = getattr(prediction, name) if name in ("question_type", "relation") else prediction.metadata.get(name)
    values = value if isinstance(value, (list, tuple)) else [value]
    return list(dict.fromkeys(str(one) for one in values if one is not None))


def _grouped(predictions: Sequence[Prediction], shares: Sequence[float], name: str) -> dict[str, dict[str, Any]]:
    parts: dict[str, list[float]] = defaultdict(list)
    for prediction, share in zip(predictions, shares, strict=True):
        for value in group_values(prediction, name):
            parts[value].append(share)
    return {value: _estimate(bootstrap(parts[value])) for value in sorted(parts)}


def _several(predictions: Sequence[Prediction], benchmark: BenchmarkOptions, scorer: str) -> dict[str, dict[str, Any]]:
    if benchmark.samples == 1:
        return {}
    judged = verdicts(predictions, scorer)
    elected = [majority([v.choice for v in each], tie="first") for each in judged]
    voted = [float(choice == p.answer) for p, choice in zip(predictions, elected, strict=True)]
    found = {f"majority@{benchmark.samples}": _estimate(bootstrap(voted))}
    for k in benchmark.pass_at:
        chances = [pass_at_k(len(v), sum(x.correct for x in v), k) if v else 0.0 for v in judged]
        found[f"pass@{k}"] = _estimate(bootstrap(chances))
    return found
