"""The detector of modality hallucination, measured on sentences written for it, half of them held out."""

from pathlib import Path

import pytest

from avrt.evaluation.hallucination import claims_perception, hallucination_rates, perception_claims

HERE = Path(__file__).parent


def measured(name: str, sense: str) -> tuple[float, float, int]:
    """Precision, recall and number of sentences."""
    rows = [line.split("\t") for line in (HERE / name).read_text().splitlines()]
    pairs = [(claims_perception(text, sense), label == "1") for kind, label, text in rows if kind == sense]
    hits = sum(found and true for found, true in pairs)
    return hits / sum(f for f, _ in pairs), hits / sum(t for _, t in pairs), len(pairs)


@pytest.mark.parametrize(
    ("name", "sense", "precision", "recall", "count"),
    [
        ("hallucination.tsv", "audio", 1.00, 0.95, 44),
        ("hallucination.tsv", "vision", 1.00, 1.00, 44),
        ("hallucination_held_out.tsv", "audio", 0.92, 0.67, 32),
        ("hallucination_held_out.tsv", "vision", 1.00, 0.72, 32),
    ],
)
def test_precision_and_recall_are_what_the_docs_state(name, sense, precision, recall, count):
    assert measured(name, sense) == (pytest.approx(precision, abs=0.005), pytest.approx(recall, abs=0.005), count)


def test_a_trace_claims_only_what_its_reasoning_says():
    trace = "<think>The frames show a red ball. No sound is available.</think><answer>A</answer> I hear music."
    assert perception_claims(trace, "audio") == []
    assert perception_claims(trace, "vision") == ["The frames show a red ball."]


def test_the_rate_counts_responses_that_claim_a_masked_sense():
    responses = ["<think>I hear a dog.</think><answer>A</answer>", "<think>A ball is seen.</think><answer>B</answer>"]
    assert hallucination_rates(responses, "v")["audio"]["rate"] == 0.5
    assert hallucination_rates(responses, "a")["vision"]["rate"] == 0.5
    assert set(hallucination_rates(responses, "text")) == {"audio", "vision"}
    assert hallucination_rates(responses, "av") == {}
    assert hallucination_rates(responses, "v")["audio"]["example"] == "I hear a dog."
