#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates it, installs, trains all stages on all workers, watches, and
# creates it again when it is preempted; training goes on from its last checkpoint in the bucket.
#
#   launch/tpu_pod.sh all --project P --zone us-east5-a --name realsrt --accelerator v5p-128 \
#       --workdir gs://BUCKET/W --data gs://BUCKET/PHOTOS [-- ARGUMENTS OF launch.train]
#
# Commands: create | setup | train | logs | watch | delete | all. Each may be given on its own and
# again; `watch` picks up a run that another machine started. --dry-run prints every command and
# runs none.
#
#   --project --zone --name   of the slice (the queued resource and its node have the same name)
#   --workdir gs://…          of the run; logs of the workers go to WORKDIR/logs
#   --data                    photographs: gs://… is copied to every worker, anything else is
#                             given to launch.train as it is (tfds:NAME, a path on the workers)
#   --validation, --assets    gs://… folders, likewise
#   --accelerator             v5e-8, v5p-128 (the default), or any type of `gcloud … create`
#   --runtime                 software version of the TPU VM; default by --accelerator
#   --config                  default configs/realsrt.py:base,hardware=ACCELERATOR; with stage=NAME
#                             only that stage is trained
#   --on-demand               no preemption, full price; the default is --spot
#   --service-account --network --subnetwork   of the workers
#   --poll SECONDS            between two looks at the slice (30)
#   --restarts N              how often a lost slice is created again (100)
#   --logs DIR                where `logs` puts the workers' logs (tpu_logs/NAME)
#   --keep                    `all` does not delete the slice at the end
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
script="tpu_pod"
source "$root/launch/gcp/common.sh"
project="" zone="" name="" workdir="" data="" validation="" assets="" accelerator="v5p-128"
runtime="" config="" on_demand=""
service_account="" network="" subnetwork="" poll=30 restarts=100 logs="" keep="" dry_run=""

die() { # one line, exit code 1: what was asked for did not work
  echo "tpu_pod: $*" >&2
  exit 1
}

say() { echo "tpu_pod: $*" >&2; }

# ---------------------------------------------------------------- options

command="${1:-}"
case "$command" in
  create | setup | train | logs | watch | delete | all) shift ;;
  -h | --help) usage && exit ;;
  *) fail "expected a command (create, setup, train, logs, watch, delete, all), found '$command'" ;;
esac
read_options "dry-run keep spot on-demand" "project zone name workdir data validation assets \
  accelerator runtime config service-account network subnetwork poll restarts logs" "$@"

for option in project zone name; do
  [[ -n "${!option}" ]] || fail "--$option is missing"
done
case "$command" in
  train | watch | all)
    [[ -n "$workdir" ]] || fail "--workdir is missing: gs://BUCKET/FOLDER, which outlives the slice"
    [[ "$workdir" == gs://?* ]] || fail "--workdir: expected gs://BUCKET/FOLDER, found '$workdir'"
    [[ -n "$data" ]] || fail "--data is missing: gs://BUCKET/FOLDER of photographs, or tfds:NAME"
    ;;
esac
for option in poll restarts; do
  [[ "${!option}" =~ ^[0-9]+$ ]] || fail "--$option: expected a whole number, found '${!option}'"
done
# Cloud TPU's own names: v5e is sold as "v5litepod-CHIPS", v5p is counted in TensorCores
case "$accelerator" in
  v5e-*) type="v5litepod-${accelerator#v5e-}" version="v2-alpha-tpuv5-lite" ;;
  v5p-*) type="$accelerator" version="v2-alpha-tpuv5" ;;
  v6e-*) type="$accelerator" version="v2-alpha-tpuv6e" ;;
  *) type="$accelerator" version="tpu-ubuntu2204-base" ;;
esac
runtime="${runtime:-$version}"
case "$command:$accelerator:$config" in # checked now, not on a slice that is paid for
  train:*: | watch:*: | all:*:)
    [[ "$accelerator" == v5e-8 || "$accelerator" == v5p-128 ]] ||
      fail "--config is missing: only v5e-8 and v5p-128 have one of their own, not '$accelerator'"
    config="configs/realsrt.py:base,hardware=$accelerator"
    ;;
esac
logs="${logs:-tpu_logs/$name}"
where=(--project="$project" --zone="$zone")
[[ -n "$dry_run" ]] || type -P gcloud >/dev/null ||
  fail "gcloud is not installed: https://cloud.google.com/sdk"

# ---------------------------------------------------------------- the slice

create() {
  local options=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
  [[ -n "$on_demand" ]] || options+=(--spot)
  [[ -z "$service_account" ]] || options+=("--service-account=$service_account")
  [[ -z "$network" ]] || options+=("--network=$network")
  [[ -z "$subnetwork" ]] || options+=("--subnetwork=$subnetwork")
  options+=("--metadata-from-file=startup-script=$root/launch/gcp/startup.sh")
  run gcloud compute tpus queued-resources create "$name" "${where[@]}" "${options[@]}"
}

delete() { # --force deletes the node too, which a preempted slice still has
  run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

state() { # of the queued resource; NOT_FOUND, or UNKNOWN when Google could not be asked
  ask queued-resources 'value(state.state)'
}

ask() {
  local errors
  errors="$(mktemp)"
  if gcloud compute tpus "$1" describe "$name" "${where[@]}" --format="$2" 2>"$errors"; then
    :
  elif grep -qi 'not.found' "$errors"; then
    echo NOT_FOUND
  else # the network, not the slice: nothing is deleted for that
    say "cannot see the slice: $(tail -n 1 "$errors")"
    echo UNKNOWN
  fi
  rm -f "$errors"
}

wait_active() { # 0: it is there; 3: it was lost again before that
  local found before=""
  if [[ -n "$dry_run" ]]; then
    echo "# every $poll s until it prints ACTIVE:"
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)'
    return
  fi
  while true; do
    found="$(state)"
    [[ "$found" == "$before" ]] || say "$name is $found"
    before="$found"
    case "$found" in
      ACTIVE) return ;;
      FAILED) die "the request for $type in $zone failed: gcloud compute tpus queued-resources" \
        "describe $name --project=$project --zone=$zone says why" ;;
      SUSPENDING | SUSPENDED | DELETING | NOT_FOUND) return 3 ;;
    esac
    sleep "$poll"
  done
}

# ---------------------------------------------------------------- the workers

on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --quiet --worker=all --command="$*"
}

setup() {
  local folder code=0 words=(bash maskgit_sr/launch/gcp/setup_worker.sh)
  if [[ -n "$dry_run" ]]; then folder="/tmp/package"; else folder="$(mktemp -d)"; fi
  run tar -czf "$folder/package.tar.gz" --exclude=__pycache__ -C "$root" pyproject.toml \
    setup.py README.md LICENSE NOTICE maskgit_sr configs data launch
  for option in data validation assets; do
    [[ "${!option}" != gs://* ]] || words+=("--$option" "${!option}")
  done
  {
    run gcloud compute tpus tpu-vm scp "$folder/package.tar.gz" "$name:" "${where[@]}" --quiet \
      --worker=all &&
      on_workers "rm -rf maskgit_sr && mkdir maskgit_sr &&" \
        "tar -xzf package.tar.gz -C maskgit_sr && $(quote "${words[@]}")"
  } || code=$?
  [[ -n "$dry_run" ]] || rm -rf "$folder"
  return "$code"
}

train() { # detached, so that it outlives this connection
  local words=(--config "$config")
  for option in data validation; do
    local key="--config.data.root" value="${!option}"
    [[ "$option" == data ]] || key="--config.data.validation"
    [[ -n "$value" ]] || continue
    # the workers' home is not known here: ~ is expanded there, outside the quotes
    if [[ "$value" == gs://* ]]; then words+=("$key" "~/$option"); else words+=("$key" "$value"); fi
  done
  words+=(${extra[@]+"${extra[@]}"})
  local line="" word
  for word in "${words[@]}"; do
    [[ "$word" == "~/"* ]] || word="$(quote "$word")"
    line+=" $word"
  done
  on_workers "bash maskgit_sr/launch/gcp/worker.sh start $(quote "$workdir")$line"
}

logs() {
  run mkdir -p "$logs"
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --quiet --worker=all \
    --command="bash maskgit_sr/launch/gcp/worker.sh log 1000" --output-directory="$logs"
}

progress() { # of all workers together: running, done, stopped, dead, failed CODE or UNKNOWN
  local answer found
  answer="$(on_workers "bash maskgit_sr/launch/gcp/worker.sh status" 2>/dev/null)" || {
    echo UNKNOWN
    return
  }
  found="$(sed -n 's/.*maskgit_sr-status: //p' <<<"$answer" | sort -u)"
  case "$found" in
    *failed*) grep -m1 failed <<<"$found" ;; # a failure of one worker ends the run
    *dead* | *absent*) echo dead ;;
    *running*) echo running ;;
    *stopped*) echo stopped ;;
    done) echo done ;;
    *) echo UNKNOWN ;;
  esac
}

# ---------------------------------------------------------------- the whole run

again() { # a lost slice: everything but the checkpoint is gone
  delete || say "nothing to delete"
  create && wait_active && setup && train
}

restart() { # again, until it holds or the restarts are used up
  while ((lost < restarts)); do
    lost=$((lost + 1))
    say "$1; restart $lost of $restarts"
    if again; then return; fi
    sleep "$poll"
  done
  die "$name was lost $lost times; --restarts allows no more"
}

watch() {
  if [[ -n "$dry_run" ]]; then
    echo "# every $poll s until all workers say done:"
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)'
    on_workers "bash maskgit_sr/launch/gcp/worker.sh status"
    echo "# whenever the slice has been preempted, at most $restarts times:"
    again
    return
  fi
  local found
  while true; do
    found="$(state)"
    case "$found" in
      ACTIVE)
        found="$(progress)"
        case "$found" in
          done) say "training is done: $workdir" && return ;;
          failed*) die "training $found; see $workdir/logs" ;;
          dead | stopped) # the slice is there, its processes are not
            # processes that are left hang in a collective: end them, then start all
            on_workers "bash maskgit_sr/launch/gcp/worker.sh stop" || true
            ((lost < restarts)) || die "training ended $lost times; --restarts allows no more"
            lost=$((lost + 1))
            say "training is $found; restart $lost of $restarts"
            train || true # if the slice was lost meanwhile, the next check finds out
            ;;
          UNKNOWN) # a node can be lost before its request says so
            found="$(ask tpu-vm 'value(state)')"
            [[ ! "$found" =~ ^(PREEMPTED|TERMINATED|NOT_FOUND)$ ]] || restart "$name is $found"
            ;;
        esac
        ;;
      SUSPENDING | SUSPENDED | FAILED | DELETING | NOT_FOUND) restart "$name is $found" ;;
    esac
    sleep "$poll"
  done
}

all() {
  local code=0
  trap 'say "stopped; $name goes on and costs money until launch/tpu_pod.sh delete"; exit 130' \
    INT TERM
  if ! { create && wait_active && setup && train; }; then
    [[ "$(state)" =~ ^(SUSPEND|DELETING|NOT_FOUND) ]] || die "$name could not be set up"
    restart "$name was lost while it was set up"
  fi
  (watch) || code=$?
  logs || say "no logs of the workers; see $workdir/logs"
  [[ -n "$keep" ]] || delete
  exit "$code"
}

lost=0
case "$command" in
  create) create && wait_active || die "$name is not there" ;;
  *) "$command" ;;
esac
