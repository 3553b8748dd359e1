#!/usr/bin/env bash
# Runs the training stages in order in one workdir: what every launcher starts on every host.
#
#   launch/gcp/train_stages.sh --config configs/realsrt.py:base,hardware=h100x8 --workdir W \
#       [--stages tokenizer,generator,critic,control] [-- ARGUMENTS OF launch.train]
#
# A stage that has reached its last step returns at once, so the same command goes on after a
# preemption where the run was. SIGTERM is passed on to the trainer, which saves and ends; this
# script then ends with 75 ("go on later") instead of beginning the next stage.
set -euo pipefail

python="${PYTHON:-python}"
config="" workdir="" stages="tokenizer,generator,critic,control"
while (($#)); do
  case "$1" in
    --config=* | --workdir=* | --stages=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --config | --workdir | --stages)
      (($# > 1)) || { echo "train_stages: $1: expected a value, found nothing" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    --)
      shift
      break
      ;;
    *)
      echo "train_stages: unexpected argument '$1' (arguments of launch.train go after --)" >&2
      exit 2
      ;;
  esac
done
for name in config workdir; do
  [[ -n "${!name}" ]] || { echo "train_stages: --$name is missing" >&2; exit 2; }
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# "FILE" and "FILE:OPTIONS" both take the stage as one more option
join=":"
[[ "$config" == *:* ]] && join=","

child="" stopped="" interrupted=""
stop() {
  stopped=1 interrupted=1
  [[ -z "$child" ]] || kill -TERM "$child" 2>/dev/null || true
}
trap stop TERM INT

for stage in ${stages//,/ }; do
  echo "train_stages: $stage"
  "$python" -m launch.train --config "$config${join}stage=$stage" --workdir "$workdir" "$@" &
  child=$!
  code=0
  wait "$child" || code=$?
  while [[ -n "$interrupted" ]]; do # the signal ended `wait`, and the trainer is still saving
    interrupted="" again=0
    wait "$child" || again=$?
    ((again == 127)) || code=$again # 127: it had ended just then, and its code is known
  done
  child=""
  if [[ -n "$stopped" ]]; then
    echo "train_stages: stopped in $stage (exit code $code of the trainer)" >&2
    # a trainer that could not save is a failure, one that the signal itself killed is not
    ((code == 0 || code == 143 || code == 130)) && exit 75
    exit "$code"
  fi
  if ((code)); then
    echo "train_stages: $stage failed with exit code $code" >&2
    exit "$code"
  fi
done
echo "train_stages: all done"
