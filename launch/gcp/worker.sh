#!/usr/bin/env bash
# Training on one worker of a pod, detached from the connection that started it.
#
#   worker.sh start WORKDIR WORDS…   launch.train in the background, all stages; logs go to
#                                    WORKDIR/logs; WORKDIR is gs://… or a folder
#   worker.sh stop                SIGTERM, and waits until it has saved
#   worker.sh status              one line: maskgit_sr-status: STATE
#   worker.sh log [LINES]
#
# STATE is absent, running, done, stopped (saved before its last step), dead (killed outright) or
# failed CODE.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
state="${MASKGIT_SR_STATE:-$HOME/run}"
period="${MASKGIT_SR_LOG_SECONDS:-60}"
python="${PYTHON:-$HOME/venv/bin/python}"
mkdir -p "$state"

alive() { # a zombie has no command line; after a reboot another process may have the number
  [[ -f "$state/pid" ]] && grep -qs worker.sh "/proc/$(<"$state/pid")/cmdline"
}

copy_log() {
  case "$1" in
    gs://*) gcloud storage cp --quiet "$state/log" "$1/$(hostname).log" ;;
    *) mkdir -p "$1" && cp "$state/log" "$1/$(hostname).log" ;;
  esac >/dev/null 2>&1 || true # a log that cannot be copied now is no reason to stop training
}

begin() {
  local workdir="$1" code=0 again keeper
  child="" interrupted=""
  shift
  # a preempted worker's disk is lost: its log must be copied before
  while sleep "$period"; do copy_log "$workdir/logs"; done &
  keeper=$!
  trap 'interrupted=1; [[ -z "$child" ]] || kill -TERM "$child" 2>/dev/null' TERM
  cd "$here/../.."
  # a preempted slice cannot take its lock away, and the new one has other host names
  export MASKGIT_SR_JOB="${MASKGIT_SR_JOB:-worker.sh $workdir}"
  "$python" -m launch.train --workdir "$workdir" "$@" &
  child=$!
  wait "$child" || code=$?
  while [[ -n "$interrupted" ]]; do # the signal ended `wait`, and the trainer is still saving
    interrupted="" again=0
    wait "$child" || again=$?
    ((again == 127)) || code=$again # 127: it has been waited for already, and its code is known
  done
  # a trainer that could not save is a failure, one that the signal itself killed is not
  case "$code" in
    0) if "$python" -m launch.finished "$workdir"; then echo done; else echo stopped; fi ;;
    130 | 143) echo stopped ;;
    *) echo "failed $code" ;;
  esac >"$state/status"
  kill "$keeper" 2>/dev/null || true
  copy_log "$workdir/logs"
}

command="${1:-}"
shift || true
case "$command" in
  start)
    if alive; then
      echo "worker: already running" >&2
      exit 0
    fi
    [[ -d "$HOME/assets" ]] && export MASKGIT_SR_ASSETS="$HOME/assets"
    echo running >"$state/status"
    setsid nohup bash "$here/worker.sh" begin "$@" >>"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    ;;
  begin) begin "$@" ;;
  stop)
    if alive; then
      kill -TERM "$(<"$state/pid")"
      while alive; do sleep 0.1; done
    fi
    ;;
  status)
    found=absent
    [[ ! -f "$state/status" ]] || found="$(<"$state/status")"
    if [[ "$found" == running ]] && ! alive; then found=dead; fi
    echo "maskgit_sr-status: $found"
    ;;
  log) tail -n "${1:-100}" "$state/log" ;;
  *)
    echo "worker: expected start, stop, status or log, found '$command'" >&2
    exit 2
    ;;
esac
