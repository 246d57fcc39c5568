#!/usr/bin/env bash
# A dataset into shards over many machines: each task of the array converts its part, the last job joins them to what one
# run would have made.
#   job=$(sbatch --parsable examples/slurm/shards.sh avqa data/avqa shards/in_parts)
#   sbatch --dependency=afterok:"$job" \
#       --wrap '. .venv/bin/activate && avrt shards merge shards/in_parts --out shards/avqa'
# A task that was stopped goes on where it was: Slurm repeats those whose node failed, and the third, whose time was up, is
#   sbatch --array=3 examples/slurm/shards.sh avqa data/avqa shards/in_parts
#SBATCH --job-name=avrt-shards
#SBATCH --array=1-8                  # 1 to the number of parts below
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --requeue
set -euo pipefail
parts=8                              # not the size of the array, which is another where some tasks are repeated

# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
recipe="$1" root="$2" out="$3"
shift 3
avrt shards "$recipe" --root "$root" --out "$out" --part "$SLURM_ARRAY_TASK_ID/$parts" \
    --resume "$@"
