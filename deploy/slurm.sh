#!/usr/bin/env bash
# A study on Slurm: the first node drives it and does no work, the others run the jobs. The two commands:
#
#   python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e .
#   sbatch deploy/slurm.sh search_spaces/kd.yaml --output /shared/results/kd
#
# Run both in this checkout, on a file system that all nodes share. What follows the script's name goes to
# `study.launch`. When the time limit comes, the study stops cleanly; the same sbatch command continues it.
#SBATCH --job-name=nodekd
#SBATCH --nodes=5
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail
umask 077

home=${SLURM_SUBMIT_DIR:?this script is for sbatch}
cd "$home"
python=$home/.venv/bin/python
ray=$home/.venv/bin/ray
port=$((20000 + SLURM_JOB_ID % 20000))
private=$(mktemp -d "$home/.ray-$SLURM_JOB_ID-XXXXXX")

# One token for this job, readable by its owner only, and there before Ray starts: without one, whoever reaches Ray's
# ports may run code.
"$python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$private/token"
chmod 600 "$private/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token
export RAY_USAGE_STATS_ENABLED=0 RAY_GRAFANA_HOST=DISABLED

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    "$ray" start --head --node-ip-address="$address" --port="$port" --num-cpus=0 --num-gpus=0 \
    --dashboard-host=127.0.0.1 --block &
steps=($!)
until "$python" -c "import socket; socket.create_connection(('$address', $port), 2)" 2>/dev/null; do sleep 1; done

workers=$((SLURM_JOB_NUM_NODES - 1))
srun --overlap --nodes="$workers" --ntasks="$workers" --exclude="$head" \
    "$ray" start --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
steps+=($!)

# Ray knows the workers a moment later than it answers.
"$python" - "$address:$port" "$workers" <<'END'
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) <= int(sys.argv[2]):
    time.sleep(1)
END

"$python" -m study.launch "$@" --address "$address:$port" &
study=$!
trap 'kill -TERM "$study" 2>/dev/null || true' TERM
code=0
wait "$study" || code=$?
while kill -0 "$study" 2>/dev/null; do wait "$study" || code=$?; done # a signal ends `wait`, not the study
kill "${steps[@]}" 2>/dev/null || true
rm -rf "$private"
exit "$code"
