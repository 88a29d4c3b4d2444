#!/usr/bin/env bash
# The POSIX suites on real mounts of the build in CARGO_TARGET_DIR. Root only. `run.sh soak` runs the long forms: hours.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export NOKV_CACHE=${NOKV_CACHE:-$HOME/.cache/nokv}
[ "$(id -u)" = 0 ] || { echo "not root: these suites mount and change users; run them as root" >&2; exit 1; }
"$here/tools.sh" || exit 1
if [ "${1:-}" = soak ]; then
  fsx=(1:5000:10 10:5000:10 100:5000:10) machine=(1000 200) folder=100000
else
  fsx=(1:3000:2 10:3000:1) machine=(100 50) folder=10000
fi
failed=0
python3 "$here/pjdfstest.py" || failed=1
python3 "$here/fsx.py" "${fsx[@]}" || failed=1
python3 "$here/folder.py" $folder || failed=1
"$NOKV_CACHE/posix-venv/bin/python" "$here/machine.py" "${machine[@]}" || failed=1
exit $failed
