#!/usr/bin/env bash
# One job per student, each on one GPU, all into one grid; then the tables:
#   job=$(sbatch --parsable examples/slurm/benchmarks.sh)
#   sbatch --dependency=afterok:"$job" --wrap '. .venv/bin/activate && avrt report runs/benchmarks'
# What a stopped job had finished is not asked again: Slurm repeats a job whose node failed (--requeue), but not one whose
# time was up; submit that again, the third student alone by --array=2.
#SBATCH --job-name=avrt-benchmarks
#SBATCH --array=0-2                  # as many as there are students below
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --requeue
set -euo pipefail

students=(
    "base: Qwen/Qwen2.5-Omni-3B"
    "sft: models/sft"
    "sft_rl: models/sft_rl"
)

# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"         # compute nodes seldom reach the hub: fetch the student before

avrt benchmark --out runs/benchmarks --students "{${students[$SLURM_ARRAY_TASK_ID]}}" --masks '[av, a, v]' \
    --benchmarks '{dailyomni: {config: [dailyomni.yaml], shards: shards/dailyomni}}' "$@"
