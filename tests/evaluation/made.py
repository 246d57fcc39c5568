"""Results and predictions for tests, written by the code that writes real ones."""

from pathlib import Path

from avrt.evaluation.benchmark_options import BenchmarkOptions
from avrt.evaluation.predictions import Prediction, PredictionWriter
from avrt.evaluation.protocol import flatten, mask_name
from avrt.evaluation.result import Result, result_fields
from tests.conftest import make_sample

QWEN_3B, QWEN_7B = 4_700_000_000, 8_900_000_000
SENSES = {"av": "both", "a": "audio", "v": "vision", "text": "none"}


def questions(number: int, **fields):
    """Questions of three options whose right one is B, A, B, A, ..."""
    return [make_sample(f"q{i}", answer=(i + 1) % 2, **fields) for i in range(number)]


def write_answers(folder: Path, samples, answer, protocol) -> list[Prediction]:
    """The predictions of `answer(i, sample)`, journaled and written."""
    writer = PredictionWriter(folder, protocol)
    writer.add(
        Prediction.from_sample(s, i, responses=(answer(i, s),), finished=(True,)) for i, s in enumerate(samples)
    )  # fmt: skip
    predictions = writer.merge(len(samples))
    writer.write(predictions)
    return predictions


def make_run(
    folder: Path, student: str, answer, *, samples, mask="av", parameters=QWEN_3B, clips=None, prompt=None, weights="w",
    name="dailyomni", engine=None, **declared,
) -> Result:  # fmt: skip
    """One run: `answer(i, sample)` gives each answer; `declared` are fields of `BenchmarkOptions`."""
    benchmark = BenchmarkOptions(name=name, **declared)
    protocol = flatten({
        "prompt": {"senses": SENSES[mask], "masked": "absent", "audio_in_video": True, **(prompt or {})},
        "shuffle_audio": False,
        "clips": clips or {"frames": 8, "fps": None, "audio_seconds": None},
        "student": {"weights": weights},
        "engine": engine or {},
    })  # fmt: skip
    predictions = write_answers(folder, samples, answer, protocol)
    found = result_fields(predictions, benchmark, protocol, mask_name(protocol))
    environment = {"shards": str(folder), "parameters": parameters}
    result = Result(student=student, environment=environment, **found)
    result.save(folder)
    return result
