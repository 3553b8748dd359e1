#!/usr/bin/env bash
# Functions of the scripts that source this file, which set `script`, their name, and `dry_run`, not
# empty for a run without effects.
set -euo pipefail

fail() { # one line, exit code 2: a mistake of the user
  echo "$script: $*" >&2
  exit 2
}

usage() { # the comment at the head of the script
  sed -n '2,/^set -euo/{/^set -euo/!s/^# \{0,1\}//p}' "$0"
}

read_options() { # FLAGS OPTIONS WORDS…: sets a variable for each, and `extra` to what follows --
  local flags=" $1 " known=" $2 " option text
  shift 2
  while (($#)) && [[ "$1" != -- ]]; do
    option="${1%%=*}" text="${1#*=}"
    option="${option#--}"
    if [[ "$flags" == *" $option "* && "$1" == "--$option" ]]; then
      text=1
    elif [[ "$known" != *" $option "* || "$1" != --* ]]; then
      fail "unknown option '$1' (what is for the Python command goes after --)"
    elif [[ "$1" != *=* ]]; then
      (($# > 1)) || fail "$1: expected a value, found nothing"
      text="$2"
      shift
    fi
    printf -v "${option//-/_}" %s "$text"
    shift
  done
  extra=("${@:2}")
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
  if [[ -n "$dry_run" ]]; then
    quote "$@"
  else
    "$@"
  fi
}
