#!/usr/bin/env bash
# Stage 2 on two nodes with four GPUs each, for as many jobs as it takes:
#   sbatch examples/slurm/grpo.sh [any option of `avrt fit`]
# One node: sbatch --nodes=1 examples/slurm/grpo.sh
#
# Ten minutes before the time is up Slurm sends SIGTERM to every process. The run then finishes its step and saves; this
# script puts the job back into the queue, and the next one goes on from there to the same numbers that an unbroken run
# would have. It does so too, twenty times at most, where a process or a node was lost. A job that ends by itself, well or
# badly, is not repeated.
#SBATCH --job-name=avrt-grpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4          # one per GPU: srun starts every process of the run
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8            # the process, data.num_workers, and the optimizer's host threads
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append           # the log of all the jobs in one file
#SBATCH --requeue
#SBATCH --signal=TERM@600            # to every process of the run; the seconds must cover one step and a save
set -euo pipefail

# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"         # compute nodes seldom reach the hub: fetch the student before
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"     # which srun does not take from sbatch

# A new folder begins a run, a folder with checkpoints goes on with its newest. All nodes have to see it, as they do what
# lies below the folder that sbatch was called in; the README says what works without.
status=0
srun --kill-on-bad-exit=1 avrt fit --config grpo.yaml --data.train shards/train --data.val shards/val \
    --model.student.source models/sft \
    "$@" --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.default_root_dir runs/grpo --ckpt_path last_or_new || status=$?
case "$status" in
    143)                             # 128 + SIGTERM
        echo "stopped by SIGTERM, back into the queue"
        exec scontrol requeue "$SLURM_JOB_ID"
        ;;
    75 | 137)                        # another process was lost; killed, as by the system that ran out of memory
        if [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
            echo "a process was lost, back into the queue"
            exec scontrol requeue "$SLURM_JOB_ID"
        fi
        ;;
esac
[ "$status" = 0 ] || exit "$status"
avrt export --ckpt_path runs/grpo --out models/sft_rl
