#!/usr/bin/env bash
# make demo-down: removes what the demo made, and the local cluster with it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
own=${KUBECONFIG:-}
. "$here/cluster/env.sh"
if [ -n "$own" ]; then
  KUBECONFIG=$own python3 "$here/demo.py" down
else
  "$here/cluster/down.sh"
  echo "the local cluster is gone; built tools and programs stay in $NOKV_CACHE"
fi
