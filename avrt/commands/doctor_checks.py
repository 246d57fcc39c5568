"""What `avrt doctor` checks: whether sampling agrees with scoring here, with this model and these data."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from avrt.commands.environment import print_environment
from avrt.commands.phases import GB, advice, phase_table, run_phases
from avrt.commands.plan import prompts_like
from avrt.commands.plan_settings import settings_of
from avrt.commands.samples import first_batch
from avrt.data.inputs.batch import OmniBatch
from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.policy.parity import Check, check_engine, check_parity
from avrt.policy.policy import Policy, load_policy
from avrt.policy.vllm.engine import VLLMEngine
from avrt.run_folder import find_checkpoint
from avrt.training.grpo_module import GRPOModule
from avrt.training.launch import read_config
from avrt.training.trained_policy import policy_from_checkpoint

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
TRIED_TOKENS = 32
PACKAGES = ("torch", "transformers", "lightning", "deepspeed", "webdataset", "torchvision", "torchaudio", "av")


@dataclass(frozen=True)
class Findings:
    """What was checked, on how many tokens, and how long it took."""

    checks: list[Check]
    prompt_tokens: int
    seconds: float


def check(
    arguments: list[str], samples: int, answer_tokens: int | None, tolerance: float | None, checkpoint: str | None
) -> bool:
    """Try the configured step on the first samples, and print what was found.

    Args:
        arguments: The configuration, as for `avrt fit`.
        samples: How many are tried.
        answer_tokens: Longest completion.
        tolerance: Largest difference of log-probabilities; by default as the student's type needs.
        checkpoint: A checkpoint, a run's folder or `last`, to try instead of the student's source.

    Returns:
        Whether all checks have passed.

    Raises:
        AvrtError: If nothing is sampled in this configuration, or there is no such checkpoint.
    """
    module, data, trainer = read_config(arguments)
    if not isinstance(module, GRPOModule):
        raise AvrtError("checks sampling against scoring", where="doctor", remedy="give it --config grpo.yaml")
    console = Console()
    print_environment(PACKAGES)
    policy = _policy(module, trainer, checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy.share_prefix = module.share_prefix
    policy.to(device)
    batch = first_batch(data, policy.inputs, samples).to(device)
    tolerance = TOLERANCE[module.student_options.dtype] if tolerance is None else tolerance
    length = answer_tokens or TRIED_TOKENS
    findings = examine(module, policy, batch, length, tolerance)
    console.print(_table(findings))
    console.print(phase_table(run_phases(policy, batch, module.options.group_size, length)))
    for line in _forecast(module, policy, data, trainer, batch):
        console.print(line, highlight=False, soft_wrap=True)
    passed = all(check.passed for check in findings.checks)
    if not passed:
        console.print("[bold red]the paths disagree: training on these samples would be biased[/bold red]")
    return passed


def _policy(module: GRPOModule, trainer: Trainer, checkpoint: str | None) -> Policy:
    if checkpoint is None:
        return load_policy(module.student_options)
    found = find_checkpoint(checkpoint, Path(trainer.default_root_dir), "doctor")
    print(f"checkpoint: {found}", flush=True)
    return policy_from_checkpoint(Path(str(found)))


def _forecast(module: GRPOModule, policy: Policy, data: AVDataModule, trainer: Trainer, batch: OmniBatch) -> list[str]:
    """What a step of the configured size should take on this machine, with advice."""
    prompts = prompts_like(batch, data.batch_size)
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    settings = settings_of(module, data, trainer, policy.family, policy.model, prompts, capability=capability)
    size, answer, prompt = settings.group_size, settings.longest_answer, round(sum(prompts.lengths) / data.batch_size)
    saved = (
        f"prompts have {prompt} tokens; with G = {size} and answers of {answer}, a group is scored in "
        f"{prompt + size * answer} tokens instead of {size * (prompt + answer)}"
    )
    held = settings.held
    fixed = {"weights": held.weights, "reference": held.reference, "gradients": held.gradients}
    fixed |= {"optimizer": held.optimizer, "features": settings.encoding.features, "buffers": settings.buffers}
    always = sum(fixed.values())
    forecast = {phase: round(peak - always) for phase, peak in settings.peaks(own_memory=0).items()}
    told = ", ".join(f"{name} {count / GB:.2f} GB" for name, count in {**fixed, **forecast}.items() if count)
    device = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    advised = advice(forecast, always, device, checkpointing=module.student_options.gradient_checkpointing)
    return [saved, f"expected at these settings: {told}", *advised]


def examine(module: GRPOModule, policy: Policy, batch: OmniBatch, answer_tokens: int, tolerance: float) -> Findings:
    """Run the checks as this module would sample and score."""
    begun = time.perf_counter()
    sampling, size = module.options.sampling.limited(answer_tokens), module.options.group_size
    checks = check_parity(policy, batch, sampling, size, tolerance)
    if module.vllm_options is not None:
        engine = VLLMEngine(module.vllm_options)
        try:
            engine.start(policy)
            seeds = list(range(len(batch) * size))
            completions = engine.generate(policy, policy.encode(batch), sampling, seeds, size)
        finally:
            engine.close()
        if engine.difference is not None:
            checks.append(Check("vLLM weights / pushed weights", engine.difference, 0.0))
        checks.append(check_engine(policy, batch, completions, size, tolerance))
    return Findings(checks, sum(len(p) for p in batch.prompt_ids), time.perf_counter() - begun)


def _table(findings: Findings) -> Table:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = Table(title=f"{findings.seconds:.1f} s, peak memory of the process {memory:.0f} MB")
    for column in ("check", "largest difference", "tolerance", "verdict", "where"):
        table.add_column(column)
    for check in findings.checks:
        verdict = "[green]PASS[/green]" if check.passed else "[red]FAIL[/red]"
        table.add_row(check.name, f"{check.difference:.2e}", f"{check.tolerance:.0e}", verdict, check.where)
    return table
