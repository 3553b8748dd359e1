#!/usr/bin/env bash
# Startup script of a TPU VM, run as root at every boot.
set -euo pipefail

# every open photograph, shard and worker pipe is a descriptor; 1024 are too few
cat >/etc/security/limits.d/90-maskgit_sr.conf <<'LIMITS'
* soft nofile 1048576
* hard nofile 1048576
LIMITS

# Orbax and jax hold whole parameter shards in pinned pages: ask for huge ones
echo always >/sys/kernel/mm/transparent_hugepage/enabled || true
