"""`avrt doctor --config grpo.yaml ...`: does sampling agree with scoring here, with this model and these data?"""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
import time
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from avrt.arguments import OneLineErrors
from avrt.commands.phases import GB, advice, phase_table, run_phases
from avrt.commands.plan import DEFAULT_CARD, plan, prompts_like
from avrt.commands.plan_settings import settings_of
from avrt.commands.samples import first_batch
from avrt.data.inputs.batch import OmniBatch
from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.models.time_estimate import CARDS
from avrt.policy.parity import Check, check_engine, check_parity
from avrt.policy.policy import Policy, load_policy
from avrt.policy.vllm_engine import VLLMEngine
from avrt.training.grpo_module import GRPOModule
from avrt.training.launch import read_config

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
# Another engine computes with other kernels, and counts positions around sound within video a little differently.
VLLM_TOLERANCE = 0.25
TRIED_TOKENS = 32
PACKAGES = ("torch", "transformers", "lightning", "deepspeed", "webdataset", "torchvision", "torchaudio", "av")


@dataclass(frozen=True)
class Findings:
    """What was checked, on how many tokens, and how long it took."""

    checks: list[Check]
    prompt_tokens: int
    seconds: float


def main(arguments: list[str]) -> None:
    """Run the command; ends with status 1 if any check fails.

    Args:
        arguments: What follows `avrt doctor`: its own options, and the configuration as for `avrt fit`.
    """
    parser = OneLineErrors(prog="avrt doctor", description=__doc__)
    parser.add_argument("--samples", type=int, default=2, help="how many samples are tried")
    parser.add_argument(
        "--answer_tokens",
        type=int | None,
        default=None,
        help="longest answer that is tried, 32; average one of a plan, 165",
    )
    parser.add_argument("--tolerance", type=float | None, default=None, help="largest difference of log-probabilities")
    parser.add_argument(
        "--plan",
        type=str | None,
        default=None,
        help=f"instead forecast memory and seconds for a card ({', '.join(CARDS)}; {DEFAULT_CARD} if none is named)",
    )
    if "--help" in arguments or "-h" in arguments:
        parser.print_help()
        print("\nand everything that `avrt fit` takes: --config grpo.yaml --data.train DIR ...")
        return
    own, rest = _split(arguments)
    options = parser.parse_args(own)
    if options.plan is not None:
        sys.exit(plan(options.plan, rest, options.answer_tokens))
    length = options.answer_tokens or TRIED_TOKENS
    module, data, trainer = read_config(rest)
    if not isinstance(module, GRPOModule):
        raise AvrtError("checks sampling against scoring", where="doctor", remedy="give it --config grpo.yaml")
    console = Console()
    console.print(_machine())
    policy = load_policy(module.student_options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy.share_prefix = module.share_prefix
    policy.to(device)
    batch = first_batch(data, policy.inputs, options.samples).to(device)
    tolerance = TOLERANCE[module.student_options.dtype] if options.tolerance is None else options.tolerance
    findings = examine(module, policy, batch, length, tolerance)
    console.print(_table(findings))
    console.print(phase_table(run_phases(policy, batch, module.options.group_size, length)))
    for line in _forecast(module, policy, data, trainer, batch):
        console.print(line, highlight=False, soft_wrap=True)
    if not all(check.passed for check in findings.checks):
        console.print("[bold red]the paths disagree: training on these samples would be biased[/bold red]")
        sys.exit(1)


def _forecast(module: GRPOModule, policy: Policy, data: AVDataModule, trainer: Trainer, batch: OmniBatch) -> list[str]:
    """What a step of the configured size should take on this machine, with advice."""
    prompts = prompts_like(batch, data.batch_size)
    settings = settings_of(
        module, data, trainer, policy.family, policy.model, prompts, on_gpu=torch.cuda.is_available()
    )
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
        checks.append(check_engine(policy, batch, completions, size, VLLM_TOLERANCE))
    return Findings(checks, sum(len(p) for p in batch.prompt_ids), time.perf_counter() - begun)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command's own options, and the configuration's."""
    own: list[str] = []
    rest: list[str] = []
    waiting = False
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        name = argument.partition("=")[0]
        if argument == "--plan" and following.startswith("-"):
            own.append(f"--plan={DEFAULT_CARD}")
            continue
        mine = waiting or name in ("--samples", "--answer_tokens", "--tolerance", "--plan")
        (own if mine else rest).append(argument)
        waiting = mine and not waiting and "=" not in argument
    return own, rest


def _machine() -> str:
    versions = "  ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["no GPU"]
    return f"python {platform.python_version()}  {versions}\ndevices: {', '.join(devices)}"


def _table(findings: Findings) -> Table:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = Table(title=f"{findings.seconds:.1f} s, peak memory of the process {memory:.0f} MB")
    for column in ("check", "largest difference", "tolerance", "verdict", "where"):
        table.add_column(column)
    for check in findings.checks:
        verdict = "[green]PASS[/green]" if check.passed else "[red]FAIL[/red]"
        table.add_row(check.name, f"{check.difference:.2e}", f"{check.tolerance:.0e}", verdict, check.where)
    return table
