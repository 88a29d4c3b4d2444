#!/usr/bin/env bash
# Starts a Kubernetes cluster of two nodes on this machine, without Docker: etcd, control plane and node1 in the host's
# namespaces, node2 in its own network, mount and UTS namespaces. A cluster that runs already is kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"

ready() { [ "$(kubectl get nodes --no-headers 2>/dev/null | grep -cw Ready)" = 2 ]; }
if [ -f "$KUBECONFIG" ] && ready; then
  say "the cluster runs already"
  exit 0
fi
"$here/down.sh" >/dev/null 2>&1 || true
[ "$(id -u)" = 0 ] || { say "the local cluster needs root"; exit 1; }

mkdir -p "$STATE"/{pki,etcd,logs,pids,podlogs1,podlogs2,kubelet1,kubelet2,containerd1,containerd2,cni1,cni2} "$RUN"
chmod 700 "$STATE"
ls -d /run/netns/cni-* > "$STATE/netns.before" 2>/dev/null || true
cd "$STATE"
openssl genrsa -out pki/sa.key 2048 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" > tokens.csv
chmod 600 tokens.csv

kubeconfig() { # server
  cat <<K
apiVersion: v1
kind: Config
clusters: [{name: nokv, cluster: {server: "https://$1:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: nokv, context: {cluster: nokv, user: admin}}]
current-context: nokv
K
}
kubeconfig 127.0.0.1 > kubeconfig
kubeconfig 10.89.0.1 > kubeconfig2
chmod 600 kubeconfig kubeconfig2

for n in 1 2; do
  cat > containerd$n.toml <<C
version = 2
root = "$STATE/containerd$n"
state = "$RUN/node$n"
[grpc]
  address = "$RUN/node$n/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "local/pause:1"
  # Without CAP_SYS_RESOURCE every sandbox would die on writing its oom_score_adj.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/cni$n"
C
  subnet=10.$((86 + 2 * n)).0.0/16 # 10.88 and 10.90
  cat > cni$n/10.conflist <<N
{"cniVersion":"0.4.0","name":"nokv","plugins":[{"type":"bridge","bridge":"nokv$n","isGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"$STATE/ipam$n","ranges":[[{"subnet":"$subnet"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}
N
  cat > kubelet$n.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failSwapOn: false
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: true
enforceNodeAllocatable: []
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://$RUN/node$n/containerd.sock
resolvConf: /etc/resolv.conf
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
shutdownGracePeriod: 0s
syncFrequency: 10s
# A folder for each node: a kubelet removes the logs of pods it does not know.
podLogsDir: $STATE/podlogs$n
Y
done
# Two kubelets below one cgroup root would remove each other's pods.
if [ "$(stat -fc %T /sys/fs/cgroup)" = tmpfs ]; then
  echo "cgroupRoot: /nokv-node2" >> kubelet2.yaml
  for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller/nokv-node2" 2>/dev/null || true; done
  cat /sys/fs/cgroup/cpuset/cpuset.cpus > /sys/fs/cgroup/cpuset/nokv-node2/cpuset.cpus
  cat /sys/fs/cgroup/cpuset/cpuset.mems > /sys/fs/cgroup/cpuset/nokv-node2/cpuset.mems
else
  echo "cgroupRoot: /nokv-node2" >> kubelet2.yaml
  mkdir -p /sys/fs/cgroup/nokv-node2
fi

run() { # name, command...
  local name=$1
  shift
  setsid "$@" > "logs/$name.log" 2>&1 < /dev/null &
  echo $! > "pids/$name"
}
mount --make-rshared /
# Both kubelets use the usual root folder, which CSI drivers expect: each node binds a folder of its own there.
if [ -e /var/lib/kubelet/pods ]; then
  say "/var/lib/kubelet is in use: another kubelet runs here or ran here; set KUBECONFIG to its cluster or empty that folder"
  exit 1
fi
mkdir -p /var/lib/kubelet
mount --bind "$STATE/kubelet1" /var/lib/kubelet
sysctl -qw net.ipv4.ip_forward=1
run containerd1 containerd -c "$STATE/containerd1.toml"
run etcd "$BIN/etcd" --data-dir "$STATE/etcd" --listen-client-urls http://127.0.0.1:2379 \
  --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
run apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --cert-dir="$STATE/pki" --secure-port=6443 \
  --service-account-key-file="$STATE/pki/sa.key" --service-account-signing-key-file="$STATE/pki/sa.key" \
  --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/16 \
  --token-auth-file="$STATE/tokens.csv" --authorization-mode=Node,RBAC --allow-privileged=true \
  --advertise-address="$HOST_IP" --kubelet-preferred-address-types=InternalIP
wait_for 60 "the apiserver" kubectl get --raw /readyz
run kcm "$BIN/kube-controller-manager" --kubeconfig="$STATE/kubeconfig" --leader-elect=false \
  --service-account-private-key-file="$STATE/pki/sa.key" --use-service-account-credentials=true \
  --root-ca-file="$STATE/pki/apiserver.crt" --cluster-cidr=10.88.0.0/16 --node-monitor-grace-period=40s
run scheduler "$BIN/kube-scheduler" --kubeconfig="$STATE/kubeconfig" --leader-elect=false
run kubelet1 "$BIN/kubelet" --kubeconfig="$STATE/kubeconfig" --config="$STATE/kubelet1.yaml" --root-dir=/var/lib/kubelet \
  --hostname-override=node1 --v=2

# node2: a network namespace behind a bridge of the host.
ip link add nokvhost type bridge 2>/dev/null || true
ip addr replace 10.89.0.1/24 dev nokvhost
ip link set nokvhost up
ip netns add nokv2
ip link add nokvveth type veth peer name eth0 netns nokv2
ip link set nokvveth master nokvhost up
ip -n nokv2 addr add 10.89.0.2/24 dev eth0
ip -n nokv2 link set eth0 up
ip -n nokv2 link set lo up
ip -n nokv2 route add default via 10.89.0.1
ip route replace 10.90.0.0/16 via 10.89.0.2
ip netns exec nokv2 sysctl -qw net.ipv4.ip_forward=1
cat > node2.sh <<R
hostname node2
umount /var/lib/kubelet
mount --make-rshared /
mount --bind $STATE/kubelet2 /var/lib/kubelet
containerd -c $STATE/containerd2.toml > $STATE/logs/containerd2.log 2>&1 &
echo \$! > $STATE/pids/containerd2
sleep 1
exec $BIN/kubelet --kubeconfig=$STATE/kubeconfig2 --config=$STATE/kubelet2.yaml --root-dir=/var/lib/kubelet \
  --hostname-override=node2 --node-ip=10.89.0.2 --v=2
R
# nsenter instead of "ip netns exec": that one mounts a fresh /sys, which hides the cgroups.
run kubelet2 nsenter --net=/var/run/netns/nokv2 unshare -m -u --propagation private bash "$STATE/node2.sh"
run proxy1 "$BIN/kube-proxy" --kubeconfig="$STATE/kubeconfig" --cluster-cidr=10.88.0.0/16 --hostname-override=node1 \
  --proxy-mode=iptables --conntrack-max-per-core=0
run proxy2 nsenter --net=/var/run/netns/nokv2 "$BIN/kube-proxy" --kubeconfig="$STATE/kubeconfig2" \
  --cluster-cidr=10.90.0.0/16 --hostname-override=node2 --proxy-mode=iptables --conntrack-max-per-core=0 \
  --healthz-bind-address=127.0.0.1:10266 --metrics-bind-address=127.0.0.1:10259
cat > Corefile <<C
.:1053 {
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $STATE/kubeconfig nokv
    pods insecure
  }
  cache 5
}
C
run coredns "$BIN/coredns" -conf "$STATE/Corefile"
kubectl apply -f - >/dev/null <<Y
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, targetPort: 1053, protocol: UDP}, {name: dns-tcp, port: 53, targetPort: 1053, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 1053, protocol: UDP}, {name: dns-tcp, port: 1053, protocol: TCP}]
endpoints: [{addresses: ["$HOST_IP"]}]
Y
"$here/image.sh" local/pause:1 --pause
wait_for 90 "two Ready nodes" ready
# Persistent volumes of the metadata server and the trial store: folders of a node, by a class of the cluster's own.
"$here/local-volumes.sh"
say "two nodes are Ready after $SECONDS s; KUBECONFIG=$KUBECONFIG"
