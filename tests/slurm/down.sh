#!/usr/bin/env bash
# Stops what up.sh started in DIR, jobs first, by the process ids that lie there.
set -uo pipefail

dir=$(cd "$1" && pwd)
export SLURM_CONF=$dir/slurm.conf

running() { # running NAME: its process id, if the process is still that program
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 1
  if grep -q '^State:.Z' "/proc/$pid/status"; then return 1; fi # waits for its parent only
  echo "$pid"
}

stop() { # stop NAME: asks, then insists
  local pid
  for signal in TERM KILL; do
    pid=$(running "$1") || return 0
    kill -s "$signal" "$pid"
    for _ in $(seq 100); do
      running "$1" >/dev/null || return 0
      sleep 0.1
    done
  done
}

if running slurmctld >/dev/null; then
  timeout 10 scancel --full --signal=KILL --user="$(id -un)"
  timeout 10 scancel --user="$(id -un)"
  for _ in $(seq 50); do
    [ -n "$(timeout 10 squeue -h)" ] || break
    sleep 0.1
  done
fi
for name in slurmd slurmctld slurmdbd mariadbd munged; do stop "$name"; done
