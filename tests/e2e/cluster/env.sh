# Shared settings of the local cluster's scripts; sourced, not run.
NOKV_CACHE=${NOKV_CACHE:-$HOME/.cache/nokv}
BIN=$NOKV_CACHE/bin
STATE=${NOKV_CLUSTER_STATE:-$NOKV_CACHE/cluster}
RUN=/run/nokv-cluster
export KUBECONFIG=$STATE/kubeconfig
export PATH=$BIN:$PATH
HOST_IP=$(hostname -I | cut -d' ' -f1)
[ -n "$HOST_IP" ] || { echo "this machine has no address besides loopback: give it one, the nodes reach the apiserver by it" >&2; exit 1; }

say() { printf '%s\n' "$*" >&2; }

wait_for() { # seconds, what, command...
  local limit=$1 what=$2 start=$SECONDS
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $((SECONDS - start)) -ge "$limit" ]; then
      say "$what did not come within $limit s; the logs are in $STATE/logs"
      return 1
    fi
    sleep 0.5
  done
}
