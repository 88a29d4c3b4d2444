#!/usr/bin/env bash
# Builds the POSIX suites once into NOKV_CACHE: pjdfstest and fsx from crates.io, Hypothesis from PyPI. What is there in
# this version is kept.
set -euo pipefail
cache=${NOKV_CACHE:-$HOME/.cache/nokv}
mkdir -p "$cache/bin"

crate() { # name, version
  local stamp=$cache/bin/.$1.$2
  [ -e "$stamp" ] && [ -x "$cache/bin/$1" ] && return 0
  local start=$SECONDS built
  built=$(mktemp -d)
  # A target folder of its own: the workspace is being built beside it.
  CARGO_TARGET_DIR=$built/target cargo install --quiet --locked --root "$built" "$1@$2"
  mv "$built/bin/$1" "$cache/bin/$1"
  rm -rf "$built" "$cache/bin/.$1."*
  touch "$stamp"
  echo "built $1 in $((SECONDS - start)) s"
}

python() { # package, version
  local venv=$cache/posix-venv
  [ -e "$venv/.$1.$2" ] && return 0
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$1==$2"
  touch "$venv/.$1.$2"
}

crate pjdfstest 0.2.2
crate fsx 0.3.2
python hypothesis 6.170.17
