#!/usr/bin/env bash
# Lints and renders the charts, checks that wrong values are refused, and compares manifests/. NOKV_UPDATE=1 writes them.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="${NOKV_CACHE:-$HOME/.cache/nokv}/bin:$PATH"
command -v helm > /dev/null || { echo "helm is missing: run make tools"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL $1"; [ -z "${2:-}" ] || sed 's/^/  /' "$2" | head -20; }
# A helm built without release flags takes itself for an old Kubernetes.
render() { helm template nokv charts/nokv --namespace nokv-system --kube-version 1.33.0 "$@"; }
holds() { # name, file, text...
  local name=$1 file=$2
  shift 2
  for text; do
    if grep -qF -- "$text" "$file"; then pass; else fail "$name lacks: $text"; fi
  done
}
lacks() { if grep -qF -- "$3" "$2"; then fail "$1 has: $3"; else pass; fi; }
refuses() { # expected words, helm arguments...
  local words=$1
  shift
  if render "$@" > "$work/out" 2>&1; then
    fail "accepted: $*"
  elif grep -q -- "$words" "$work/out"; then
    pass
  else
    fail "refused without saying $words: $*" "$work/out"
  fi
}

helm lint --strict charts/nokv charts/nokv-crds > "$work/lint" 2>&1 && pass || fail "helm lint" "$work/lint"
for values in charts/nokv/ci/*-values.yaml; do
  helm lint --strict charts/nokv -f "$values" > "$work/lint" 2>&1 && pass || fail "helm lint $values" "$work/lint"
  render -f "$values" > "$work/$(basename "$values" -values.yaml).yaml" 2> "$work/err" && pass || fail "render $values" "$work/err"
done
render > "$work/default.yaml" 2> "$work/err" && pass || fail "render defaults" "$work/err"

holds store "$work/store.yaml" "kind: CustomResourceDefinition" "helm.sh/resource-policy: keep" "kind: StorageClass" \
  "provisioner: csi.nokv.io" 'csi.storage.k8s.io/node-stage-secret-name: ${pv.name}-stage' "metadataServer: nokv" \
  "endpoint: https://s3.example.com" "credentialsSecret: {name: s3-keys}" "helm.sh/hook: pre-delete" "fsGroupPolicy: File"
lacks store "$work/store.yaml" "name: nokv-trial-store"
holds trial "$work/trial.yaml" "endpoint: http://nokv-trial-store.nokv-system.svc:9000" "secretName: trial-keys" "whenDeleted: Retain"
# Without a store there is nothing to make a server of, and no class that would promise volumes.
lacks default "$work/default.yaml" "kind: StorageClass"
lacks default "$work/default.yaml" "name: NOKV_DECLARED"
holds all "$work/all.yaml" "mirror.example.com/nokv/csi-provisioner:1.2.3" "/var/lib/k0s/kubelet/plugins_registry" "--leader-election=true" \
  "namespace: other" "name: pull" 'quotaInodes: "1000000"'
lacks all "$work/all.yaml" "kind: CustomResourceDefinition"
render --set trialStore.enabled=true > "$work/made.yaml" 2> "$work/err" && pass || fail "render trialStore" "$work/err"
holds "made keys" "$work/made.yaml" "accessKey: " "secretKey: "
if diff -r charts/nokv-crds/templates charts/nokv/files/crds > "$work/diff"; then pass; else fail "the two copies of the definitions differ" "$work/diff"; fi

refuses "trialstore" --set trialstore.enabled=true
refuses "replicas" --set operator.replicas=0
refuses "pullPolicy" --set image.pullPolicy=always
refuses "endpoint" --set objectStore.endpoint=s3.example.com
refuses "objectStore.bucket is missing" --set objectStore.endpoint=https://s3.example.com
refuses "objectStore.existingSecret is missing" --set objectStore.endpoint=https://s3.example.com,objectStore.bucket=abc
refuses "not both" --set trialStore.enabled=true,objectStore.endpoint=https://s3.example.com
refuses "size" --set metadataServer.storage.size=10gb
refuses "ephemeral" --set trialStore.enabled=true,metadataServer.storage.ephemeral=true,metadataServer.storage.storageClassName=fast
refuses "kubeletDir" --set csi.kubeletDir=kubelet
refuses "reclaimPolicy" --set storageClass.reclaimPolicy=Keep

for set in store trial; do
  file=manifests/nokv-$set.yaml
  if [ -n "${NOKV_UPDATE:-}" ]; then cp "$work/$set.yaml" "$file"; fi
  if diff "$file" "$work/$set.yaml" > "$work/diff"; then pass; else fail "$file is not what the chart renders: run NOKV_UPDATE=1 charts/test.sh" "$work/diff"; fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
