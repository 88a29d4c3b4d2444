"""kubectl and helm as functions. Every wait has a deadline, and says what it saw last."""

import json
import subprocess
import time

NAMESPACE = "nokv-system"


class Failed(Exception):
    """A step did not do what it must."""


def run(*args: str, stdin: str | None = None, timeout: float = 120, check: bool = True) -> str:
    done = subprocess.run(args, input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise Failed(f"{' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def kubectl(*args: str, **options) -> str:
    return run("kubectl", *args, **options)


def get(*args: str) -> dict:
    return json.loads(kubectl("get", "-o", "json", *args))


def apply(*objects: dict) -> None:
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def wait(seconds: float, what: str, look):
    """Calls `look` until it answers something true; what it answered last is in the error."""
    end = time.monotonic() + seconds
    last = None
    while True:
        try:
            last = look()
            if last:
                return last
        except Failed as error:
            last = error
        if time.monotonic() > end:
            raise Failed(f"{what} did not come within {seconds:.0f} s; last seen: {last}")
        time.sleep(0.5)


def condition(kind: str, name: str, namespace: str, wanted: str = "Ready") -> dict | None:
    for entry in get(kind, name, "-n", namespace).get("status", {}).get("conditions", []):
        if entry["type"] == wanted:
            return entry
    return None


def is_true(kind: str, name: str, namespace: str, wanted: str = "Ready") -> bool:
    found = condition(kind, name, namespace, wanted)
    return bool(found and found["status"] == "True")


def events(namespace: str, name: str) -> list[str]:
    items = get("events", "-n", namespace)["items"]
    return [event.get("message", "") for event in items if event["involvedObject"]["name"] == name]


def claim(name: str, namespace: str, size: str = "1Gi", storage_class: str = "nokv", volume: str | None = None) -> dict:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}, "storageClassName": storage_class}
    if volume:
        spec |= {"volumeName": volume, "storageClassName": ""}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def pod(name: str, namespace: str, node: str, command: list[str], claims: dict[str, str], **extra) -> dict:
    """A pod that runs once on `node`; `claims` maps mount paths to claims."""
    volumes = [{"name": f"v{n}", "persistentVolumeClaim": {"claimName": name}} for n, name in enumerate(claims.values())]
    mounts = [{"name": f"v{n}", "mountPath": path} for n, path in enumerate(claims)]
    container = {
        "name": "main", "image": "local/nokv-demo:dev", "imagePullPolicy": "IfNotPresent", "command": command, "volumeMounts": mounts,
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "PYTHONUNBUFFERED", "value": "1"}],
    }
    spec = {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "nodeSelector": {"kubernetes.io/hostname": node},
        "containers": [container], "volumes": volumes,
    }
    for manifest in extra.get("config_maps", {}).items():
        spec["volumes"].append({"name": manifest[0], "configMap": {"name": manifest[0]}})
        mounts.append({"name": manifest[0], "mountPath": manifest[1]})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def finish(name: str, namespace: str, seconds: float = 180) -> str:
    """Waits for a pod's end and answers its output; a pod that failed is an error with its output and events."""

    def ended():
        phase = get("pod", name, "-n", namespace)["status"].get("phase")
        return phase if phase in ("Succeeded", "Failed") else None

    try:
        phase = wait(seconds, f"the end of pod {name}", ended)
    except Failed as error:
        raise Failed(f"{error}\nevents: {events(namespace, name)}") from None
    output = kubectl("logs", name, "-n", namespace)
    if phase != "Succeeded":
        raise Failed(f"pod {name} failed: {output}")
    return output


def run_pod(name: str, namespace: str, node: str, script: str, claims: dict[str, str], seconds: float = 180) -> str:
    """Runs a shell script in a pod and removes the pod."""
    apply(pod(name, namespace, node, ["sh", "-ec", script], claims))
    output = finish(name, namespace, seconds)
    kubectl("delete", "pod", name, "-n", namespace, "--timeout=60s")
    return output


def namespace(name: str) -> None:
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
