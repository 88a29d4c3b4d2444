#!/usr/bin/env bash
# Runs the bench on a `dev` mount of the release build and on ext4, in turn, and prints both: bench/run.sh [DIR_ON_EXT4]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
base=$(mktemp -d "${1:-/var/tmp}/nokv-bench.XXXX")
bin=$here/../bin/nokv-fs
[ -x "$bin" ] || { echo "bin/nokv-fs is missing; run make build first" >&2; exit 1; }
"$bin" dev "$base/mount" --data "$base/data" > "$base/ready" 2> "$base/log" &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null || true; rm -rf "$base"' EXIT
for _ in $(seq 100); do grep -q ready "$base/ready" && break; sleep 0.1; done
grep -q ready "$base/ready" || { cat "$base/log" >&2; exit 1; }
mkdir "$base/ext4"
rustc --edition 2024 -O -o "$base/one_directory" "$here/one_directory.rs"
echo "boundary: mounted path; durability: fsync; store: the trial store in the same process"
echo "nokv:"; "$base/one_directory" "$base/mount"
echo "ext4:"; "$base/one_directory" "$base/ext4"
