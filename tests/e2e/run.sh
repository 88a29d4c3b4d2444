#!/usr/bin/env bash
# Tests on the local two-node cluster. It stays up when NOKV_KEEP is set; else it is taken down at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/cluster/env.sh"
[ -n "${NOKV_KEEP:-}" ] || trap '"$here/cluster/down.sh"' EXIT
"$here/cluster/up.sh"
"$here/images.sh"
python3 "$here/e2e.py" "$@"
