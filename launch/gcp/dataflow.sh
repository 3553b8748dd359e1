#!/usr/bin/env bash
# Restores photographs of a bucket on Dataflow: builds the workers' image, submits the job, waits.
#
#   launch/gcp/dataflow.sh all --project P --region R --image R-docker.pkg.dev/P/REPOSITORY/N \
#       --input gs://BUCKET/PHOTOS --output gs://BUCKET/RESTORED [-- OPTIONS OF launch.beam_upscale]
#
# Commands: build (the image, and pushes it) | run | all. --dry-run prints every command and runs
# none. The same `run` goes on after a job that was stopped: what is there is skipped.
#
#   --project --region        of the job
#   --image NAME              of the workers' image, with or without a tag
#   --input --output gs://…   pictures, a folder or a pattern; a folder
#   --temp gs://…             for Dataflow's own files; default OUTPUT/.dataflow
#   --name                    of the job; default maskgit-sr
#   --accelerator TYPE        a GPU a worker, such as nvidia-l4; default none
#   --machine-type            default n2-standard-8, with a GPU g2-standard-8
#   --workers N               at most so many (16)
#   --service-account --network --subnetwork   of the workers
#
# The machine that submits needs Python 3.12, as the image has, with pip install '.[dataflow]'.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
script="dataflow"
source "$root/launch/gcp/common.sh"
python="${PYTHON:-python}"
project="" region="" image="" input="" output="" temp="" name="maskgit-sr" accelerator=""
machine_type="" workers=16 service_account="" network="" subnetwork="" dry_run=""

# ---------------------------------------------------------------- options

command="${1:-}"
case "$command" in
  build | run | all) shift ;;
  -h | --help) usage && exit ;;
  *) fail "expected a command (build, run, all), found '$command'" ;;
esac
read_options "dry-run" "project region image input output temp name accelerator machine-type workers \
  service-account network subnetwork" "$@"

[[ -n "$image" ]] || fail "--image is missing"
if [[ "$command" != build ]]; then
  for option in project region input output; do
    [[ -n "${!option}" ]] || fail "--$option is missing"
  done
  for option in input output; do
    [[ "${!option}" == gs://?* ]] || fail "--$option: expected gs://…, found '${!option}'"
  done
  [[ "$workers" =~ ^[1-9][0-9]*$ ]] || fail "--workers: expected a number, found '$workers'"
fi
temp="${temp:-${output%/}/.dataflow}"
if [[ -n "$accelerator" ]]; then
  packages=cuda machine_type="${machine_type:-g2-standard-8}"
else
  packages=cpu machine_type="${machine_type:-n2-standard-8}"
fi

# ---------------------------------------------------------------- commands

build() {
  run docker build -f "$root/launch/Dockerfile" --build-arg "EXTRA=$packages" \
    -t "maskgit-sr:$packages" "$root"
  run docker build -f "$root/launch/gcp/dataflow.Dockerfile" \
    --build-arg "BASE=maskgit-sr:$packages" -t "$image" "$root"
  run docker push "$image"
}

submit() {
  local options=(--runner DataflowRunner --project "$project" --region "$region"
    --temp_location "$temp" --job_name "$name" --machine_type "$machine_type"
    --max_num_workers "$workers" --sdk_container_image "$image" --sdk_location container)
  # One process a worker: XLA uses all cores by itself, and each process would load the model. Its
  # threads read and write while one of them restores.
  options+=(--experiments no_use_multiple_sdk_containers --number_of_worker_harness_threads 4)
  [[ -z "$accelerator" ]] || options+=(--dataflow_service_options
    "worker_accelerator=type:$accelerator;count:1;install-nvidia-driver")
  [[ -z "$service_account" ]] || options+=(--service_account_email "$service_account")
  [[ -z "$network" ]] || options+=(--network "$network")
  [[ -z "$subnetwork" ]] || options+=(--subnetwork "$subnetwork")
  cd "$root"
  if [[ -z "$dry_run" ]]; then
    local found
    found="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    [[ "$found" == 3.12 ]] ||
      fail "PYTHON: expected Python 3.12, which the image has, found $found ($python)"
  fi
  run "$python" -m launch.beam_upscale --input "$input" --output "$output" "${options[@]}" \
    "${extra[@]}"
}

[[ "$command" == run ]] || build
[[ "$command" == build ]] || submit
