#!/usr/bin/env bash
# Installs what a fresh Debian machine lacks for building and testing. Root only; what is there is left alone.
set -euo pipefail
need=()
has() { command -v "$1" >/dev/null 2>&1; }
has containerd || need+=(containerd)
has runc || need+=(runc)
[ -x /usr/lib/cni/bridge ] || need+=(containernetworking-plugins)
has iptables || need+=(iptables)
has conntrack || need+=(conntrack)
has socat || need+=(socat)
has ip || need+=(iproute2)
has fusermount3 || need+=(fuse3)
has mmdebstrap || need+=(mmdebstrap)
has gcc || need+=(gcc libc6-dev)
has openssl || need+=(openssl)
has git || need+=(git)
has make || need+=(make)
has python3 || need+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || need+=(python3-venv)
has mkfs.ext4 || need+=(e2fsprogs)
has setfattr || need+=(attr)
if [ ${#need[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "not root: install ${need[*]} first" >&2; exit 1; }
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
has cargo || { echo "cargo is missing: install Rust (https://rustup.rs)" >&2; exit 1; }
has go || { echo "go is missing: install Go 1.26 or newer (https://go.dev/dl)" >&2; exit 1; }
has npm || { echo "npm is missing: install Node.js 20 or newer, the docs are built with it" >&2; exit 1; }
has kubectl || true # built with the cluster's tools
mountpoint -q /sys/fs/fuse/connections || mount -t fusectl fusectl /sys/fs/fuse/connections 2>/dev/null || true
[ -e /dev/fuse ] || { echo "/dev/fuse is missing: load the kernel's fuse module" >&2; exit 1; }
