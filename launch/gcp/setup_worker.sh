#!/usr/bin/env bash
# Prepares one worker of a pod: Python, the package with its extras train and tpu, the data.
#
#   setup_worker.sh [--data gs://BUCKET/PHOTOS] [--validation gs://…] [--assets gs://…]
#
# Folders in a bucket are copied to ~/data, ~/validation and ~/assets: a few hundred megabytes a
# minute once, instead of a request for every photograph of every epoch.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv="$HOME/venv"

while (($# > 1)); do
  target="$HOME/${1#--}"
  mkdir -p "$target"
  gcloud storage rsync --recursive "$2" "$target"
  shift 2
done

# The images of TPU VMs come with Python 3.10; uv brings its own interpreter without root.
if [[ ! -x "$venv/bin/python" ]]; then
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --python 3.12 "$venv"
fi
python3 -m uv pip install --quiet --python "$venv/bin/python" '.[train,tpu]'
"$venv/bin/python" -c 'import jax; print("setup_worker: jax", jax.__version__)'
