#!/usr/bin/env bash
# Stage 0 over many machines: the tasks of the array ask the same teachers, and no question twice, since they share a
# database; one job more writes the traces.
#   export STORE=postgresql://avrt@dbhost/traces
#   job=$(sbatch --parsable examples/slurm/traces.sh)
#   sbatch --dependency=afterok:"$job" --wrap \
#       ". .venv/bin/activate && avrt traces run --config traces.yaml --data shards/raw --out traces --store $STORE --stages [export]"
# Teachers and merger are served elsewhere, at the endpoints of traces.yaml; its first lines say how. A task that was
# stopped repeats at most the calls that were in flight. Slurm repeats a task whose node failed (--requeue), but not one
# whose time was up: submit the script again.
#SBATCH --job-name=avrt-traces
#SBATCH --array=0-3                  # as many workers
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --requeue
set -euo pipefail

# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
avrt traces run --config traces.yaml --data shards/raw --out traces --store "${STORE:?the address of a database}" \
    --stages '[teach, merge]' "$@"
