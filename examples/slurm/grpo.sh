#!/usr/bin/env bash
# Stage 2 on one node with four GPUs, for as many jobs as it takes: sbatch examples/slurm/grpo.sh [options of `avrt fit`]
#
# Ten minutes before the time is up, or when the job has to make room, Slurm sends SIGTERM. The run then finishes its
# step and saves; this script puts the job back into the queue, and the next one goes on from there to the same numbers
# that an unbroken run would have. A job that ends by itself, well or badly, is not repeated.
#SBATCH --job-name=avrt-grpo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4          # a process per GPU: as many as trainer.devices
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append           # the log of all the jobs in one file
#SBATCH --requeue
#SBATCH --signal=TERM@600            # to the run's processes; the seconds must cover one step and a save
set -euo pipefail

# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"     # srun does not take it from the job
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"         # compute nodes seldom reach the hub: fetch the student before

trap : TERM                          # a preempted job's script gets the signal too: let the run save first

# A new folder begins a run, a folder with checkpoints goes on with its newest.
status=0
srun avrt fit --config grpo.yaml --data.train shards/train --data.val shards/val --model.student.source models/sft \
    "$@" --trainer.default_root_dir runs/grpo --ckpt_path last_or_new || status=$?
if [ "$status" = 143 ]; then         # 128 + SIGTERM
    echo "stopped after a checkpoint, back into the queue"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
[ "$status" = 0 ] || exit "$status"
srun --ntasks=1 avrt export --ckpt_path runs/grpo --out models/sft_rl
