"""What following the API server of a large cluster costs a process of its own: prints JSON.

Started with a kubeconfig. All of it is measured: the client library, TLS, the pages as they come.
"""

from __future__ import annotations

import json
import sys
import time

from tests.support.kube_api import KubeApi
from tests.support.kube_scale import CLUSTER, resident_megabytes
from tests.support.wait import wait_until
from tracer.kube.informer import Informer
from tracer.kube.names import Names, Resource
from tracer.model import KubeState

SECONDS = 60.0


def load(api: KubeApi) -> None:
    """Has the server hold the cluster."""
    for resource, count, make, _ in CLUSTER:
        for number in range(count):
            document = make(number)
            if resource is Resource.NODES:
                del document["metadata"]["namespace"]
            metadata = document["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            api.objects[resource][key] = document
        api.version = max(api.version, count)


def main() -> None:
    names = Names()
    informer = Informer(names, node_name="node-0", kubeconfig=sys.argv[1])
    before, began = resident_megabytes(), time.process_time()
    informer.start()
    wait_until(lambda: informer.health.state is KubeState.SYNCED, SECONDS, "all names")
    cost = {
        "cpu_seconds": time.process_time() - began,
        "megabytes": resident_megabytes() - before,
        "records": {each: len(names.records(each)) for each in Resource},
    }
    informer.stop()
    json.dump(cost, sys.stdout)


if __name__ == "__main__":
    main()
