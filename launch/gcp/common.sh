#!/usr/bin/env bash
# What the scripts share, to be sourced by them; they set `script`, their name, and `dry` for a run
# without effects.
set -euo pipefail

fail() { # one line, exit code 2: a mistake of the user
  echo "$script: $*" >&2
  exit 2
}

quote() { # words → one line that a shell reads as the same words
  local word line="" single="'" inside="'\\''"
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//$single/$inside}'"
    line+="${line:+ }$word"
  done
  echo "$line"
}

run() { # every command that changes anything goes through here
  if [[ -n "$dry" ]]; then
    quote "$@"
  else
    "$@"
  fi
}
