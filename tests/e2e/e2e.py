"""Tests on the local two-node cluster: each is a function that raises when the product does not do what it must.

They run in order on one installation, since that is how a cluster lives. Names as arguments run only those (after
`install`). Closes with `N passed, N failed`.
"""

import os
import pathlib
import subprocess
import sys
import time
import traceback

import kube
from kube import NAMESPACE, Failed, apply, claim, condition, events, get, kubectl, pod, run, run_pod, wait

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parent.parent / "charts" / "nokv"
STATE = pathlib.Path(os.environ["KUBECONFIG"]).parent
SPACE = "e2e"


def helm_install() -> None:
    run("helm", "upgrade", "--install", "nokv", str(CHART), "-n", NAMESPACE, "--create-namespace", "-f", str(HERE / "values.yaml"), "--wait", "--timeout", "4m", timeout=300)


def objects() -> int:
    """Blocks in the trial store, counted on its disk."""
    total = 0
    for folder in (STATE / "volumes").iterdir():
        total += sum(1 for path in folder.rglob("*") if path.is_file() and "blocks" in str(path.relative_to(folder)))
    return total


def mounts() -> list[str]:
    """Kernel mounts of ours, of both nodes."""
    out = run("cat", "/proc/self/mountinfo")
    pid = (STATE / "pids" / "containerd2").read_text().strip()
    out += run("cat", f"/proc/{pid}/mountinfo")
    return [line for line in out.splitlines() if " - fuse.nokv " in line]


def install() -> None:
    """One helm install brings everything, and it becomes Ready."""
    helm_install()
    wait(180, "a Ready metadata server", lambda: kube.is_true("metadataserver", "nokv", NAMESPACE))
    kube.namespace(SPACE)
    wait(60, "the CSI driver on both nodes", lambda: all(
        any(driver["name"] == "csi.nokv.io" for driver in node["spec"]["drivers"] or []) for node in get("csinodes")["items"]
    ))


def helm_test() -> None:
    """The chart's own test passes."""
    run("helm", "test", "nokv", "-n", NAMESPACE, "--timeout", "2m", timeout=150)


def provision_write_read() -> None:
    """A claim is provisioned; what a pod on node1 writes a pod on node2 reads."""
    apply(claim("shared", SPACE))
    written = run_pod("writer", SPACE, "node1", "mkdir /d/x; for i in $(seq 200); do echo file $i > /d/x/$i; done; head -c 20000000 /dev/urandom > /d/big; sync /d/big; sha256sum /d/big | cut -c1-64", {"/d": "shared"})
    seen = run_pod("reader", SPACE, "node2", "test $(ls /d/x | wc -l) = 200; test \"$(cat /d/x/77)\" = 'file 77'; sha256sum /d/big | cut -c1-64", {"/d": "shared"})
    if written != seen:
        raise Failed(f"node2 reads {seen}, node1 wrote {written}")
    names = [item["metadata"]["name"] for item in get("nokvmounts", "-A")["items"]]
    volume = get("pvc", "shared", "-n", SPACE)["spec"]["volumeName"]
    if volume not in names:
        raise Failed(f"kubectl get nokvmounts shows {names}, not the provisioned {volume}")


def both_nodes_at_once() -> None:
    """Two pods on two nodes use one volume at the same time; a rename on one is seen by the other."""
    apply(
        pod("left", SPACE, "node1", ["sh", "-ec", "echo one > /d/ping.part; mv /d/ping.part /d/ping; for i in $(seq 60); do test -e /d/pong && exit 0; sleep 0.5; done; exit 1"], {"/d": "shared"}),
        pod("right", SPACE, "node2", ["sh", "-ec", "for i in $(seq 60); do test -e /d/ping && break; sleep 0.5; done; test \"$(cat /d/ping)\" = one; echo > /d/pong"], {"/d": "shared"}),
    )
    for name in ("left", "right"):
        kube.finish(name, SPACE)
        kubectl("delete", "pod", name, "-n", SPACE, "--timeout=60s")


def read_only_claim() -> None:
    """A pod that mounts the claim read-only can't write."""
    manifest = pod("ro", SPACE, "node1", ["sh", "-c", "cat /d/x/1 && ! touch /d/x/new && echo refused"], {"/d": "shared"})
    manifest["spec"]["containers"][0]["volumeMounts"][0]["readOnly"] = True
    manifest["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = True
    apply(manifest)
    if "refused" not in kube.finish("ro", SPACE):
        raise Failed("a read-only mount took a write")
    kubectl("delete", "pod", "ro", "-n", SPACE, "--timeout=60s")


def quota() -> None:
    """A claim of 32 MiB takes no 64 MiB."""
    apply(claim("small", SPACE, "32Mi"))
    out = run_pod("filler", SPACE, "node1", "dd if=/dev/zero of=/d/f bs=1M count=64 2>&1 && sync /d/f && echo filled || echo stopped", {"/d": "small"})
    if "stopped" not in out:
        raise Failed(f"64 MiB went into 32: {out}")
    kubectl("delete", "pvc", "small", "-n", SPACE, "--timeout=90s", timeout=120)


def static_mount() -> None:
    """A NoKVMount gets a PersistentVolume that a claim binds by name; its status tells usage."""
    apply({
        "apiVersion": "nokv.io/v1alpha1", "kind": "NoKVMount", "metadata": {"name": "models", "namespace": NAMESPACE},
        "spec": {"metadataServer": {"name": "nokv"}, "quota": {"bytes": "1Gi"}},
    })
    wait(60, "NoKVMount models", lambda: kube.is_true("nokvmount", "models", NAMESPACE))
    volume = get("nokvmount", "models", "-n", NAMESPACE)["status"]["persistentVolume"]
    apply(claim("models", SPACE, "1Gi", volume=volume))
    run_pod("keeper", SPACE, "node2", "echo kept > /d/kept; sync /d/kept", {"/d": "models"})


def wrong_parameter() -> None:
    """A StorageClass with a wrong parameter gives an event that names it."""
    good = get("storageclass", "nokv")
    apply({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "wrong"}, "provisioner": "csi.nokv.io",
        "parameters": good["parameters"] | {"qota": "1"}, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
    })
    apply(claim("wrong", SPACE, storage_class="wrong"))
    wait(60, "an event that names 'qota'", lambda: any("qota" in text for text in events(SPACE, "wrong")))
    kubectl("delete", "pvc", "wrong", "-n", SPACE, "--timeout=60s")
    kubectl("delete", "storageclass", "wrong")


def unreachable_store() -> None:
    """A metadata server whose S3 store can't be reached says so in its condition and in an event, and what to do."""
    apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "nowhere", "namespace": SPACE}, "stringData": {"accessKey": "a", "secretKey": "b"}},
        {
            "apiVersion": "nokv.io/v1alpha1", "kind": "MetadataServer", "metadata": {"name": "nowhere", "namespace": SPACE},
            "spec": {
                "storage": {"ephemeral": True},
                "objectStore": {"endpoint": "http://10.88.255.250:9", "bucket": "nowhere", "credentialsSecret": {"name": "nowhere"}},
            },
        },
    )

    def told() -> bool:
        found = condition("metadataserver", "nowhere", SPACE)
        return bool(found and found["reason"] == "ObjectStoreUnreachable" and "spec.objectStore" in found["message"])

    wait(120, "a condition about the S3 store", told)
    wait(30, "an event about the S3 store", lambda: any("S3 object store" in text for text in events(SPACE, "nowhere")))
    kubectl("delete", "metadataserver", "nowhere", "-n", SPACE, "--timeout=60s")


def delete_claim() -> None:
    """Deleting a claim removes its volume, and its objects leave the store."""
    if objects() == 0:
        raise Failed("no objects found before the deletion: this test would prove nothing")
    volume = get("pvc", "shared", "-n", SPACE)["spec"]["volumeName"]
    kubectl("delete", "pvc", "shared", "-n", SPACE, "--timeout=90s", timeout=120)
    wait(60, "the PersistentVolume's end", lambda: not kubectl("get", "pv", volume, "--ignore-not-found"))
    wait(60, "the NoKVMount's end", lambda: not kubectl("get", "nokvmount", volume, "-n", NAMESPACE, "--ignore-not-found"))
    wait(90, "one object (of the volume that stays)", lambda: objects() <= 1)


def uninstall_keeps_data() -> None:
    """helm uninstall leaves no workload, RBAC or mount, and all data; a reinstall finds every volume."""
    run("helm", "uninstall", "nokv", "-n", NAMESPACE, "--wait", "--timeout", "3m", timeout=240)
    wait(120, "the end of all pods", lambda: not get("pods", "-n", NAMESPACE)["items"])
    for kind in ("deployments", "daemonsets", "statefulsets"):
        if left := [item["metadata"]["name"] for item in get(kind, "-n", NAMESPACE)["items"]]:
            raise Failed(f"{kind} are left: {left}")
    for kind in ("clusterroles", "clusterrolebindings", "csidrivers", "storageclasses"):
        if left := [item["metadata"]["name"] for item in get(kind)["items"] if "nokv" in item["metadata"]["name"]]:
            raise Failed(f"{kind} are left: {left}")
    if left := mounts():
        raise Failed(f"mounts are left: {left}")
    helm_install()
    wait(180, "a Ready metadata server", lambda: kube.is_true("metadataserver", "nokv", NAMESPACE))
    wait(60, "NoKVMount models", lambda: kube.is_true("nokvmount", "models", NAMESPACE))
    if "kept" not in run_pod("finder", SPACE, "node1", "cat /d/kept", {"/d": "models"}):
        raise Failed("the volume came back without its file")


def demo() -> None:
    """The demo runs, twice."""
    kubectl("delete", "namespace", SPACE, "--timeout=120s", timeout=150)
    kubectl("delete", "nokvmounts", "--all", "-n", NAMESPACE, "--timeout=60s")
    run("helm", "uninstall", "nokv", "-n", NAMESPACE, "--wait", timeout=240)
    kubectl("delete", "metadataservers", "--all", "-n", NAMESPACE, "--timeout=120s", timeout=150)
    kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", timeout=150)
    for turn in (1, 2):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, str(HERE / "demo.py"), "up"], capture_output=True, text=True, timeout=900)
        print(done.stdout)
        if done.returncode:
            raise Failed(f"the demo failed: {done.stderr}")
        print(f"  demo, run {turn}: {time.monotonic() - begun:.0f} s")


TESTS = [
    install, helm_test, provision_write_read, both_nodes_at_once, read_only_claim, quota, static_mount, wrong_parameter,
    unreachable_store, delete_claim, uninstall_keeps_data, demo,
]


def diagnose() -> None:
    for args in (["get", "pods,pvc,pv,nokvmounts,metadataservers", "-A", "-o", "wide"], ["get", "events", "-A", "--sort-by=.lastTimestamp"]):
        print(kubectl(*args, check=False)[-6000:])
    for line in kubectl("get", "pods", "-n", NAMESPACE, "-o", "name", check=False).split():
        print(f"-- {line}\n" + kubectl("logs", line, "-n", NAMESPACE, "--all-containers", "--tail=25", check=False)[-4000:])
    for name in ("proxy1", "proxy2", "coredns", "kcm"):
        print(f"-- {name}\n" + run("tail", "-n", "15", str(STATE / "logs" / f"{name}.log"), check=False)[-3000:])
    print(run("sh", "-c", "iptables-save -t nat | grep -i nokv", check=False)[-6000:])


def main() -> int:
    wanted = set(sys.argv[1:])
    failed = passed = 0
    for test in TESTS:
        if wanted and test is not install and test.__name__ not in wanted:
            continue
        start = time.monotonic()
        try:
            test()
            passed += 1
            print(f"ok      {test.__name__} {time.monotonic() - start:.0f} s", flush=True)
        except Exception as error:  # noqa: BLE001: whatever it is, the next tests and the diagnosis must still run
            failed += 1
            print(f"FAILED  {test.__name__} {time.monotonic() - start:.0f} s: {error}", flush=True)
            if not isinstance(error, Failed):
                traceback.print_exc()
            diagnose()
            if test is install:
                break
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
