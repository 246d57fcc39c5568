"""The paper's statistics of its own traces, AVRT-20K, by split (AVRT Tables 2 and 9), to show beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNIT = "tokens"
OTHERS = "Others"
# As `avrt.traces.stats.collect` gives them; lengths are in tokens of the student's tokenizer.
TRACES: dict[str, dict[str, Any]] = {
    "train": {
        "traces": 18279,
        "format_compliance": 100.0,
        "think_length": {"n": 18279, "mean": 165.5, "std": 33.9},
        "answer_length": {"n": 18279, "mean": 1.0, "std": 0.0},
        "question_types": {
            "Which": 45.2, "Come From": 30.9, "Happening": 15.5, "Where": 8.0, "Why": 0.2, OTHERS: 0.2,
        },
        "answers": {"A": 24.5, "B": 25.2, "C": 24.9, "D": 25.4},
        "relations": {"both": 99.0, "audio": 0.7, "vision": 0.3},
        "clips": {"duration": {"n": 18279, "mean": 10.0, "std": 0.1}, "resolutions": {"1280x720": 62.0}},
    },
    "val": {
        "traces": 945,
        "format_compliance": 100.0,
        "think_length": {"n": 945, "mean": 163.4, "std": 32.5},
        "answer_length": {"n": 945, "mean": 1.0, "std": 0.0},
        "question_types": {
            "Which": 45.7, "Come From": 29.8, "Happening": 14.1, "Where": 9.7, "Why": 0.4, OTHERS: 0.3,
        },
        "answers": {"A": 27.1, "B": 27.3, "C": 23.3, "D": 22.3},
        "relations": {"both": 98.9, "audio": 0.7, "vision": 0.3},
        "clips": {"duration": {"n": 945, "mean": 10.0, "std": 0.2}, "resolutions": {"1280x720": 43.0}},
    },
}  # fmt: skip


def side_by_side(splits: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of a table with the statistics of each split and the published ones beside them.

    Args:
        splits: As `avrt.traces.stats.collect` gives them.
    """
    names = [name for name in ("train", "val") if name in splits] + [n for n in splits if n not in TRACES]
    unit = next(iter(splits.values()))["unit"]
    columns: list[tuple[str, Mapping[str, Any], str]] = []
    for name in names:
        columns.append((name, splits[name], unit))
        if name in TRACES:
            columns.append((f"AVRT {name}", TRACES[name], UNIT))
    rows = [
        ["traces", *(str(s["traces"]) for _, s, _ in columns)],
        ["well-formed, %", *(str(s["format_compliance"]) for _, s, _ in columns)],
        *(
            [what, *(_length(s[field], own) for _, s, own in columns)]
            for what, field in (("think", "think_length"), ("answer", "answer_length"))
        ),
    ]
    if any("clips" in splits[name] for name in names):
        rows.append(["duration", *(_length(s.get("clips", {}).get("duration", {}), "s") for _, s, _ in columns)])
        rows.append(
            ["1280x720, %", *(_percent(s.get("clips", {}).get("resolutions"), "1280x720") for _, s, _ in columns)]
        )
    for field in ("question_types", "answers", "relations"):
        shares = [_grouped(s[field], field) for _, s, _ in columns]
        for key in _ordered(list(dict.fromkeys(key for column in shares for key in column))):
            rows.append([f"{_title(field, key)}, %", *(_percent(column, key) for column in shares)])
    return ["", *(name for name, _, _ in columns)], rows


def _title(field: str, key: str) -> str:
    return {"question_types": key, "answers": f"right letter {key}", "relations": f"relation {key}"}[field]


def _grouped(shares: Mapping[str, float], field: str) -> Mapping[str, float]:
    """Shares with AVQA's rare question types summed as `Others`, as in the paper; other data sets keep theirs."""
    listed = TRACES["train"]["question_types"]
    rest = {"Before Next", "When", "Used For", OTHERS}
    if field != "question_types" or not set(shares) <= {*listed, *rest}:
        return shares
    kept = {key: share for key, share in shares.items() if key not in rest}
    others = sum(share for key, share in shares.items() if key in rest)
    return {**kept, OTHERS: round(others, 1)} if others else kept


def _ordered(keys: list[str]) -> list[str]:
    """Letters in alphabetical order; other keys in their own order, with `Others` last."""
    if all(len(key) == 1 for key in keys):
        return sorted(keys)
    return sorted(keys, key=lambda key: key == OTHERS)


def _length(found: Mapping[str, float], unit: str) -> str:
    return f"{found['mean']:.1f} ± {found['std']:.1f} {unit}" if found.get("n") else "-"


def _percent(shares: Mapping[str, float] | None, key: str) -> str:
    return "-" if shares is None else f"{shares.get(key, 0.0):.1f}"
