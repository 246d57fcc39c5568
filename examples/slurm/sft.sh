#!/usr/bin/env bash
# Stage 1 on one node with four GPUs: sbatch examples/slurm/sft.sh [any option of `avrt fit`]
#SBATCH --job-name=avrt-sft
#SBATCH --nodes=1
#SBATCH --ntasks=1                   # avrt starts its other processes itself
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32           # per GPU the process, data.num_workers, and the optimizer's host threads
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
export SLURM_JOB_NAME=interactive    # or Lightning would expect to be started once per GPU, by srun
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"         # compute nodes seldom reach the hub: fetch the student before

avrt fit --config sft.yaml --data.train traces/shards/train --data.val traces/shards/val \
    "$@" --trainer.default_root_dir runs/sft
avrt export --ckpt_path runs/sft --out models/sft
