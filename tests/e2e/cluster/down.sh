#!/usr/bin/env bash
# Ends the local cluster: processes by their recorded pids, then mounts, the namespace, the links, the state folder.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"

alive() { [ -d "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }
end() { # pids...
  local pid
  for pid in "$@"; do kill "$pid" 2>/dev/null; done
  for _ in $(seq 50); do
    local left=
    for pid in "$@"; do alive "$pid" && left=1; done
    [ -z "$left" ] && return 0
    sleep 0.1
  done
  for pid in "$@"; do kill -9 "$pid" 2>/dev/null; done
}
pids() { for name in "$@"; do cat "$STATE/pids/$name" 2>/dev/null; done; }
shims() { # the shims' sockets and bundles lie below our own containerd state
  for dir in /proc/[0-9]*; do
    { tr '\0' ' ' < "$dir/cmdline"; } 2>/dev/null | grep -q "containerd-shim.*$RUN/" && echo "${dir#/proc/}"
  done
}
children() { # pids of all descendants of the given ones
  local pid kid
  for pid in "$@"; do
    for kid in $(cat /proc/"$pid"/task/*/children 2>/dev/null); do echo "$kid"; children "$kid"; done
  done
}

# Only what this cluster made is touched: without its state folder there is nothing to end.
[ -d "$STATE" ] || exit 0

# A FUSE mount whose daemon goes first would block whoever looks at it: abort ours before.
mountpoint -q /sys/fs/fuse/connections || mount -t fusectl fusectl /sys/fs/fuse/connections 2>/dev/null
end $(pids kubelet1 kubelet2 proxy1 proxy2 coredns scheduler kcm)
for pid in $(shims); do end $(children "$pid") "$pid"; done
while read -r _ _ device _ target _; do
  case $target in "$STATE"/* | /var/lib/kubelet/*) ;; *) continue ;; esac
  grep -q "$device .* - fuse.nokv " /proc/self/mountinfo && echo 1 > "/sys/fs/fuse/connections/${device#*:}/abort" 2>/dev/null
done < /proc/self/mountinfo
end $(pids containerd1 containerd2 apiserver etcd)
awk '{print length($2), $2}' /proc/mounts | sort -rn | cut -d' ' -f2 | while read -r target; do
  case $(printf '%b' "$target") in "$STATE"/* | "$RUN"/* | /var/lib/kubelet*) umount -l "$(printf '%b' "$target")" 2>/dev/null ;; esac
done
ip netns pids nokv2 2>/dev/null | while read -r pid; do kill -9 "$pid" 2>/dev/null; done
ip netns del nokv2 2>/dev/null
# The namespaces of pods: those that were not there when the cluster started.
for space in /run/netns/cni-*; do
  [ -e "$space" ] && ! grep -qxF "$space" "$STATE/netns.before" 2>/dev/null || continue
  umount "$space" 2>/dev/null
  rm -f "$space"
done
for link in nokvveth nokvhost nokv1; do ip link del "$link" 2>/dev/null; done
ip route del 10.90.0.0/16 2>/dev/null
if command -v iptables-save >/dev/null && [ -d "$STATE/pids" ]; then
  # kube-proxy's and the CNI's chains on the host.
  iptables-save 2>/dev/null | grep -vE 'KUBE-|CNI-' | iptables-restore 2>/dev/null
fi
for controller in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do
  for group in nokv-node2 kubepods; do
    [ -d "$controller/$group" ] && find "$controller/$group" -depth -type d -exec rmdir {} + 2>/dev/null
  done
done
rm -rf "$RUN" "$STATE"
exit 0
