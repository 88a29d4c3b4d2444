"""The demo on a cluster whose images are there: install, claim, load on node 1, train on node 2. `demo.py up|down`."""

import json
import os
import pathlib
import sys
import time

import kube
from kube import NAMESPACE, apply, kubectl, wait

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parent.parent / "charts" / "nokv"
SPACE = "nokv-demo"
OWNER = {"nokv.io/made-by": "demo"}
REGISTRY = os.environ.get("IMAGE_REGISTRY", "local")
CACHE = pathlib.Path(os.environ.get("NOKV_CACHE", pathlib.Path.home() / ".cache" / "nokv"))


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def owned_namespace(name: str) -> None:
    """Makes a namespace of the demo's own; one that somebody else made is not touched."""
    found = kubectl("get", "namespace", name, "--ignore-not-found", "-o", "jsonpath={.metadata.labels}")
    if not found:
        apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": OWNER}})
    elif OWNER.keys().isdisjoint(json.loads(found)):
        raise kube.Failed(f"namespace {name} is there and the demo did not make it; remove or rename it first")


def install() -> None:
    say("helm install: operator, CSI driver, metadata server, trial S3 store")
    owned_namespace(NAMESPACE)
    kube.run(
        "helm", "upgrade", "--install", "nokv", str(CHART), "-n", NAMESPACE, "-f", str(HERE / "values.yaml"), "--wait", "--timeout", "5m",
        *(["--set", f"image.registry={REGISTRY}"] if REGISTRY != "local" else []), timeout=400,
    )
    wait(180, "a Ready metadata server", lambda: kube.is_true("metadataserver", "nokv", NAMESPACE))
    print(kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide"), flush=True)


def volumes() -> None:
    say("a second MetadataServer, a NoKVMount whose PersistentVolume a claim binds, and a claim provisioned by the StorageClass")
    owned_namespace(SPACE)
    store = kube.get("metadataserver", "nokv", "-n", NAMESPACE)["spec"]["objectStore"]
    keys = kube.get("secret", store["credentialsSecret"]["name"], "-n", NAMESPACE)["data"]
    endpoint = store["endpoint"]
    if ".svc" not in endpoint and "://nokv-" in endpoint:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        endpoint = f"http://{host.split('.')[0]}.{NAMESPACE}.svc:{port}"
    apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-keys", "namespace": SPACE}, "data": {k: keys[k] for k in ("accessKey", "secretKey")}},
        {
            "apiVersion": "nokv.io/v1alpha1", "kind": "MetadataServer", "metadata": {"name": "training", "namespace": SPACE},
            "spec": {
                "storage": {"size": "10Gi"},
                "objectStore": {"endpoint": endpoint, "bucket": store["bucket"], "prefix": "training", "credentialsSecret": {"name": "s3-keys"}},
            },
        },
        {
            "apiVersion": "nokv.io/v1alpha1", "kind": "NoKVMount", "metadata": {"name": "dataset", "namespace": SPACE},
            "spec": {"metadataServer": {"name": "training"}, "quota": {"bytes": "10Gi"}, "deletionPolicy": "Delete"},
        },
    )
    wait(180, "the NoKVMount dataset", lambda: kube.is_true("nokvmount", "dataset", SPACE))
    name = kube.get("nokvmount", "dataset", "-n", SPACE)["status"]["persistentVolume"]
    apply(kube.claim("dataset", SPACE, "10Gi", volume=name), kube.claim("checkpoints", SPACE, "1Gi"))
    for name in ("dataset", "checkpoints"):
        wait(120, f"claim {name}", lambda name=name: kube.get("pvc", name, "-n", SPACE)["status"].get("phase") == "Bound")


def node_names() -> tuple[str, str]:
    names = sorted(node["metadata"]["labels"]["kubernetes.io/hostname"] for node in kube.get("nodes")["items"])
    return names[0], names[-1]


def step(name: str, node: str, command: list[str], claims: dict[str, str], seconds: float, **extra) -> None:
    kubectl("delete", "pod", name, "-n", SPACE, "--ignore-not-found", "--timeout=60s")
    pod = kube.pod(name, SPACE, node, command, claims, **extra)
    pod["spec"]["containers"][0]["image"] = f"{REGISTRY}/nokv-demo:dev"
    apply(pod)
    print(kube.finish(name, SPACE, seconds), end="", flush=True)


def up() -> None:
    begun = time.monotonic()
    install()
    volumes()
    first, last = node_names()
    say(f"a pod on {first} loads the dataset")
    step("load", first, ["python3", "/demo/load.py", "/dataset", "/data"], {"/data": "dataset"}, 300)
    manifest = CACHE / "demo-manifest"
    kubectl("delete", "configmap", "manifest", "-n", SPACE, "--ignore-not-found")
    kubectl("create", "configmap", "manifest", "-n", SPACE, f"--from-file=files={manifest}")
    say(f"a training pod on {last} reads it, three epochs; a manifest made outside the volume checks every byte")
    step(
        "train", last, ["python3", "/demo/train.py", "/data", "/checkpoints", "3"], {"/data": "dataset", "/checkpoints": "checkpoints"}, 600,
        config_maps={"manifest": "/manifest"},
    )
    say("what is there now")
    print(kubectl("get", "nokvmounts,metadataservers,pvc,pods", "-A"), flush=True)
    print(f"the demo took {time.monotonic() - begun:.0f} s. Try next:")
    print(f"  export KUBECONFIG={os.environ['KUBECONFIG']} PATH={CACHE}/bin:$PATH")
    print(f"  kubectl -n {SPACE} describe nokvmount dataset")
    print("  make demo-down      # removes everything")


def down() -> None:
    for name in (SPACE, NAMESPACE):
        labels = kubectl("get", "namespace", name, "--ignore-not-found", "-o", "jsonpath={.metadata.labels}")
        if labels and "nokv.io/made-by" not in labels:
            raise kube.Failed(f"namespace {name} was not made by the demo; remove what is in it yourself")
    if kubectl("get", "namespace", SPACE, "--ignore-not-found"):
        kubectl("delete", "pods,pvc", "--all", "-n", SPACE, "--timeout=120s", timeout=150)
        kubectl("delete", "nokvmounts", "--all", "-n", SPACE, "--timeout=120s", timeout=150)
        kubectl("delete", "metadataservers", "--all", "-n", SPACE, "--timeout=120s", timeout=150)
        kubectl("delete", "namespace", SPACE, "--timeout=120s", timeout=150)
    if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
        kube.run("helm", "uninstall", "nokv", "-n", NAMESPACE, "--wait", check=False)
        kubectl("delete", "metadataservers", "--all", "-n", NAMESPACE, "--timeout=120s", timeout=150, check=False)
        kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", timeout=150)
    print("removed the demo's namespaces and everything in them")


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]]()
    except kube.Failed as error:
        sys.exit(f"demo: {error}")
