"""Which tests look after which module; they run in the process of the mutant, so that they see it."""

from __future__ import annotations

# What starts training runs, compiles, or takes long; others of the same file see the faults.
SLOW = " and ".join(
    f"not {name}"
    for name in (
        "once_an_epoch",
        "takes_steps_on",
        "as_if_unbroken",
        "never_differs",
        "growing_caches[True]",
        "compiled_once",
    )
)
NANO = ["tests/models/test_teacher_forcing.py", "tests/models/test_packing.py", "tests/models/test_towers.py"]

MODULES: dict[str, list[str]] = {
    "avrt.objectives.advantages": ["tests/objectives/test_advantages.py"],
    "avrt.objectives.token_scores": ["tests/objectives/test_token_scores.py"],
    "avrt.objectives.policy_loss": ["tests/objectives/test_policy_loss.py"],
    "avrt.objectives.rewards": ["tests/objectives/test_rewards.py"],
    "avrt.response": ["tests/test_response.py"],
    "avrt.choices": ["tests/test_choices.py", "tests/evaluation/test_scorers.py"],
    "avrt.evaluation.scorers": [
        "tests/evaluation/test_scorers.py",
        "tests/evaluation/test_official_rules.py",
        "tests/evaluation/test_protocol_rules.py",
    ],
    "avrt.evaluation.yes_no": ["tests/evaluation/test_yes_no.py"],
    "avrt.evaluation.statistics": ["tests/evaluation/test_statistics.py"],
    "avrt.models.packing": [
        "tests/models/test_packing.py",
        "tests/models/test_windows.py",
        "tests/models/test_teacher_forcing.py",
        "tests/models/test_varlen.py",
    ],
    "avrt.models.fused_prefix": ["tests/models/test_varlen.py"],
    "avrt.models.prefix": [
        "tests/models/test_prefix.py",
        "tests/rollout/test_native.py",
        "tests/models/test_varlen.py",
    ],
    "avrt.models.teacher_forcing": NANO,
    "avrt.models.qwen2_5_omni.towers": ["tests/models/test_towers.py"],
    "avrt.models.qwen_omni.inputs": ["tests/models/test_positions.py", "tests/data/test_preprocessor.py"],
    "avrt.models.qwen_omni.towers": ["tests/models/test_towers.py", "tests/models/qwen3_omni/test_towers.py"],
    "avrt.models.qwen3_omni.positions": ["tests/models/qwen3_omni/test_inputs.py"],
    "avrt.models.qwen3_omni.towers": ["tests/models/qwen3_omni/test_towers.py"],
    "avrt.models.gemma4.media_inputs": ["tests/models/gemma4/test_inputs.py"],
    "avrt.models.gemma4.decoder": ["tests/models/gemma4/test_decoder.py"],
    "avrt.models.gemma4.towers": ["tests/models/gemma4/test_towers.py"],
    "avrt.models.qwen2_5_omni.positions": ["tests/models/test_positions.py"],
    "avrt.data.loading.order": ["tests/data/test_order.py"],
    "avrt.data.loading.plans": ["tests/data/test_plans.py"],
    "avrt.data.media.decode": [
        "tests/data/test_seen.py",
        "tests/data/test_shapes.py",
        "tests/data/test_media.py",
        "tests/data/test_zoo.py",
    ],
    "avrt.data.media.audio": [
        "tests/data/test_seen.py",
        "tests/data/test_levels.py",
        "tests/data/test_media.py",
        "tests/data/test_zoo.py",
    ],
    "avrt.traces.analysis": ["tests/traces/test_analysis.py"],
    "avrt.traces.filters": ["tests/traces/test_filters.py"],
    "avrt.traces.checks": ["tests/traces/test_checks.py", "tests/traces/test_rule_merger.py"],
    "avrt.rollout.sampling": ["tests/rollout/test_sampling.py"],
    "avrt.rollout.native": ["tests/rollout/test_native.py", "tests/rollout/test_static.py"],
    "avrt.rollout.rows": ["tests/rollout/test_native.py", "tests/rollout/test_static.py"],
    "avrt.rollout.static_caches": ["tests/rollout/test_static.py", "tests/models/test_varlen.py"],
    "avrt.rollout.static": ["tests/rollout/test_static.py", "tests/models/test_varlen.py"],
    "avrt.training.lightning_internals": ["tests/training/test_stopped_runs.py"],
    "avrt.algorithms.grpo": ["tests/algorithms/test_grpo.py"],
    "avrt.algorithms.groups": ["tests/algorithms/test_groups.py", "tests/algorithms/test_grpo.py"],
}
