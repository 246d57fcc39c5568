#!/usr/bin/env bash
# Stage 2 on two nodes with four GPUs each, for as many jobs as it takes:
#   sbatch examples/slurm/grpo.sh [any option of `avrt fit`]
# One node: sbatch --nodes=1 examples/slurm/grpo.sh
#
# Ten minutes before the time is up Slurm sends SIGTERM to every process. The run then finishes its step and saves; this
# script puts the job back into the queue, and the next one goes on from there to the same numbers that an unbroken run
# would have. It does so too where a process was killed or lost, but not when three jobs in a row have saved nothing. A job
# that ends by itself, well or badly, is not repeated: what one process reports ends all of them with its status, which
# srun must not replace by that of processes that it kills (--kill-on-bad-exit=0).
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
run=runs/grpo
saved() { printf '%s\n' "$run"/checkpoints/step-*.ckpt; }
before="$(saved)"
status=0
srun --kill-on-bad-exit=0 avrt fit --config grpo.yaml --data.train shards/train --data.val shards/val \
    --model.student.source models/sft \
    "$@" --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.default_root_dir "$run" --ckpt_path last_or_new || status=$?
case "$status" in
    75 | 137 | 143)                  # another process was lost; SIGKILL, as where memory runs out; SIGTERM
        mkdir -p "$run"
        barren=0
        [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || read -r barren <"$run/barren_jobs" || barren=0
        if [ "$(saved)" = "$before" ]; then barren=$((barren + 1)); else barren=0; fi
        echo "$barren" >"$run/barren_jobs"
        if [ "$barren" -lt 3 ]; then
            echo "stopped with status $status, back into the queue"
            exec scontrol requeue "$SLURM_JOB_ID"
        fi
        echo "stopped with status $status; $barren jobs in a row have saved no checkpoint: not repeated"
        ;;
esac
[ "$status" = 0 ] || exit "$status"
avrt export --ckpt_path "$run" --out models/sft_rl
