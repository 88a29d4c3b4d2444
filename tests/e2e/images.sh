#!/usr/bin/env bash
# Builds the programs with the tests' profile and imports them as images into the local cluster: local/NAME:dev.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/cluster/env.sh"
target=${CARGO_TARGET_DIR:-$NOKV_CACHE/target}
cd "$here/../.."
[ -n "${NOKV_BUILT:-}" ] || CARGO_TARGET_DIR=$target cargo build --workspace --bins
import() { # reference, user, entrypoint, files...
  local ref=$1 user=$2
  shift 2
  local stamp=$STATE/images/${ref//[\/:]/_} sum
  sum=$(printf '%s\n' "$@" "$user" | cat - $(printf '%s\n' "${@:2}" | grep : | cut -d: -f1) | sha256sum | cut -d' ' -f1)
  mkdir -p "$STATE/images"
  [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && return 0
  IMAGE_USER=$user "$here/cluster/image.sh" "$ref" "$@"
  echo "$sum" > "$stamp"
  say "imported $ref"
}
import local/nokv-fs:dev 65532:65532 '["/usr/local/bin/nokv-fs"]' "$target/debug/nokv-fs:/usr/local/bin/nokv-fs"
import local/nokv-csi:dev 0:0 '["/usr/local/bin/nokv-csi"]' "$target/debug/nokv-csi:/usr/local/bin/nokv-csi"
import local/nokv-operator:dev 65532:65532 '["/usr/local/bin/nokv-operator"]' "$target/debug/nokv-operator:/usr/local/bin/nokv-operator"
import local/csi-provisioner:dev 65532:65532 '["/csi-provisioner"]' "$BIN/csi-provisioner:/csi-provisioner"
root=$("$here/demo/root.sh")
stamp=$STATE/images/demo
if [ "$(cat "$stamp" 2>/dev/null)" != "$(cat "$root/.stamp")" ]; then
  "$here/cluster/image.sh" local/nokv-demo:dev '["python3"]' --root "$root"
  cp "$root/.stamp" "$stamp"
  say "imported local/nokv-demo:dev"
fi
