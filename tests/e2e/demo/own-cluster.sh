#!/usr/bin/env bash
# Builds the images with Docker and brings them to the cluster of KUBECONFIG: kind loads them, others pull them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
command -v docker >/dev/null || { echo "docker is needed to build images for a cluster of your own; without KUBECONFIG the demo needs none" >&2; exit 1; }
registry=${IMAGE_REGISTRY:-local}
for name in nokv-fs nokv-csi nokv-operator; do
  docker build --target "$name" -t "$registry/$name:dev" "$top"
done
docker build -t "$registry/nokv-demo:dev" -f "$here/Dockerfile" "$here"
for name in nokv-fs nokv-csi nokv-operator nokv-demo; do
  if [ -n "${IMAGE_REGISTRY:-}" ]; then docker push "$registry/$name:dev"; else kind load docker-image "$registry/$name:dev"; fi
done
