"""A SLURM of one machine: sbatch runs the script it is given, once for each element of the job array."""

from pathlib import Path

SBATCH = """#!/bin/sh
cp "$1" "{folder}/script.sh"
for task in $(seq 0 $(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")); do
  SLURM_JOB_ID=$((70 + task)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_NAME=cnnlab \\
    SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 \\
    sh "$1" > "{folder}/$task.txt" 2>&1 &
done
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do
  case "$1" in --output|--error) shift 2 ;; *) shift ;; esac
done
exec "$@"
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
for task in 0 1 2 3; do echo "7_$task|RUNNING|here"; done
"""


def install_slurm(folder: Path) -> Path:
    """Write the commands into `folder`, which belongs on PATH; sbatch leaves what it is given in script.sh there."""
    folder.mkdir()
    for name, text in (("sbatch", SBATCH.replace("{folder}", str(folder))), ("srun", SRUN), ("sacct", SACCT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
