#!/usr/bin/env bash
# make demo: the whole product on a cluster. Uses the cluster of KUBECONFIG, else starts the local one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
step() { printf '\n== %s\n' "$*"; }

if [ -n "${KUBECONFIG:-}" ]; then
  export PATH=${NOKV_CACHE:-$HOME/.cache/nokv}/bin:$PATH
  case $(kubectl config current-context 2>/dev/null || true) in
    kind-*) ;;
    *)
      if [ -z "${IMAGE_REGISTRY:-}" ]; then
        echo "KUBECONFIG names a cluster that is not kind: set IMAGE_REGISTRY to a registry that you may push to and the cluster can pull from, for example IMAGE_REGISTRY=registry.example.com/me make demo. Nothing was built." >&2
        exit 1
      fi
      ;;
  esac
  "$here/demo/own-cluster.sh"
else
  step "tools (built once, half an hour on two cores)"
  "$here/../deps.sh"
  "$here/tools/build.sh"
  step "programs"
  . "$here/cluster/env.sh"
  (cd "$here/../.." && CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$NOKV_CACHE/target} cargo build --workspace --bins)
  step "a cluster of two nodes on this machine"
  "$here/cluster/up.sh"
  step "images"
  NOKV_BUILT=1 "$here/images.sh"
  export KUBECONFIG
fi
exec python3 "$here/demo.py" up
