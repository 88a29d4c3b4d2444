#!/usr/bin/env bash
# Builds the Go tools of the cluster tests once into NOKV_CACHE/bin; a tool that is there already is kept.
# Each folder beside this script is one Go module whose `tool` lines pin what is built.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${NOKV_CACHE:-$HOME/.cache/nokv}
bin=$cache/bin
mkdir -p "$bin"
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false

build() { # module folder, binary name, package, extra linker flags
  local stamp
  stamp=$bin/.$2.$(cat "$here/$1/go.mod" | sha256sum | cut -c1-16)
  [ -e "$stamp" ] && [ -x "$bin/$2" ] && return 0
  local start=$SECONDS
  (cd "$here/$1" && go build -trimpath -ldflags "-s -w ${4:-}" -o "$bin/$2.part" "$3")
  mv "$bin/$2.part" "$bin/$2"
  rm -f "$bin/.$2."*
  touch "$stamp"
  echo "built $2 in $((SECONDS - start)) s"
}

k8s=v1.35.4
version="-X k8s.io/component-base/version.gitVersion=$k8s -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35"
for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
  build k8s "$name" "k8s.io/kubernetes/cmd/$name" "$version"
done
build etcd etcd go.etcd.io/etcd/server/v3
build helm helm helm.sh/helm/v3/cmd/helm
build csi csi-sanity github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
build csi csi-provisioner github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner
build coredns coredns github.com/coredns/coredns
build versitygw versitygw github.com/versity/versitygw/cmd/versitygw
