#!/usr/bin/env bash
# A default StorageClass for the local cluster: twelve static hostPath volumes on node1, bound when a pod needs one.
set -euo pipefail
. "$(dirname "$0")/env.sh"
kubectl apply -f - >/dev/null <<Y
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
Y
for n in $(seq 12); do
  dir=$STATE/volumes/$n
  mkdir -p "$dir"
  chmod 0777 "$dir"
  kubectl apply -f - >/dev/null <<Y
apiVersion: v1
kind: PersistentVolume
metadata: {name: local-$n}
spec:
  capacity: {storage: 100Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  hostPath: {path: $dir}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]
Y
done
