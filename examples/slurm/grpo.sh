#!/usr/bin/env bash
# Stage 2 on one node with four GPUs, for as many jobs as it takes: sbatch examples/slurm/grpo.sh [options of `avrt fit`]
#
# Ten minutes before the time is up Slurm sends SIGTERM. The run then finishes its step and saves; this script puts the
# job back into the queue, and the next one goes on from there to the same numbers that an unbroken run would have. A job
# that ends by itself, well or badly, is not repeated.
#SBATCH --job-name=avrt-grpo
#SBATCH --nodes=1
#SBATCH --ntasks=1                   # avrt starts its other processes itself
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append           # the log of all the jobs in one file
#SBATCH --requeue
#SBATCH --signal=B:TERM@600          # to this script alone; the seconds must cover one step and a save
set -euo pipefail

# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
export SLURM_JOB_NAME=interactive    # or Lightning would expect to be started once per GPU, by srun
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"         # compute nodes seldom reach the hub: fetch the student before

# A new folder begins a run, a folder with checkpoints goes on with its newest.
avrt fit --config grpo.yaml --data.train shards/train --data.val shards/val --model.student.source models/sft \
    "$@" --trainer.default_root_dir runs/grpo --ckpt_path last_or_new &
run=$!
# Not through srun, which would hand the signal to the processes that read the data as well, and end them.
trap 'kill -TERM "$run"' TERM
status=0
wait "$run" || status=$?
if kill -0 "$run" 2>/dev/null; then  # it was the signal that ended the waiting
    status=0
    wait "$run" || status=$?
fi
if [ "$status" = 143 ]; then         # 128 + SIGTERM
    echo "stopped by SIGTERM, back into the queue"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
[ "$status" = 0 ] || exit "$status"
avrt export --ckpt_path runs/grpo --out models/sft_rl
