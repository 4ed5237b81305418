#!/bin/bash
# A search or a training on all GPUs of a node under Slurm: stopped at any time, queued again, and gone on with.
#
#   sbatch examples/slurm.sh search recipe.yaml /shared/runs/s
#   sbatch examples/slurm.sh train /shared/runs/s /shared/runs/t
#   sbatch --array=0-4 --gpus-per-node=1 examples/slurm.sh train /shared/runs/s /shared/runs/t    # a run for each seed
#
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# The last one warns this script two minutes before the time is over; what runs then saves the step in hand, and stops.
set -u
verb=$1 what=$2 out=$3
changes=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    out=$out-$SLURM_ARRAY_TASK_ID
    changes=("seed=$SLURM_ARRAY_TASK_ID")
fi
if [ -e "$out/run.json" ]; then
    words=(--resume "$out")
else
    words=("$what" "${changes[@]}" --out "$out")
fi
medarts "$verb" "${words[@]}" --devices "${SLURM_GPUS_ON_NODE:-1}" --requeue &
job=$!
trap 'kill -TERM "$job"' USR1 TERM
wait "$job"
status=$?
while kill -0 "$job" 2> /dev/null; do # a signal has ended the wait, not the job
    wait "$job"
    status=$?
done
if [ "$status" -eq 75 ]; then # stopped, and saved
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
