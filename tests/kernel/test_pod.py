"""--pod without an API server: kubelet's log folders and real cgroups tell which it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.kubepods import Container, kube_pod
from tests.support.netns import SERVER_V4, PodPair, drop_forwarded, pod_pair
from tests.support.tracer import Tracer, get, run_program
from tests.support.wait import wait_until

PORT = 8443
SEEN_SECONDS = 15


def stuck_client_in(pods: PodPair, container: Container) -> Client:
    """A client whose connect begins once it is in the container."""
    client = Client(pods.client, SERVER_V4, PORT, "--wait", "--hold")
    client.wait_ready()
    container.add(client.pid)
    return client


@pytest.mark.parametrize("backend", ["bpf", "poll"])
def test_a_pod_is_traced_by_its_name_and_its_attempts_carry_its_uid_and_container(
    tmp_path: Path, backend: str
) -> None:
    with (
        pod_pair() as pods,
        pod_pair() as others,
        kube_pod(pods.client, logs=True) as pod,
    ):
        for pair in (pods, others):
            drop_forwarded(pair)
        client = stuck_client_in(pods, pod.containers["app"])
        with Tracer(tmp_path, "--backend", backend, what=("--pod", pod.label)) as tracer:
            other = Client(others.client, SERVER_V4, PORT, "--hold")
            client.go()
            tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
            other.wait_opened()
            wait_until(
                lambda: others.client.counter("TCPSynRetrans"), SEEN_SECONDS, "the other's SYN"
            )
            events = tracer.stop()
        client.kill()
    (stuck,) = [event for event in events if event["event"] == "attempt.stuck"]
    assert stuck["netns"] == pods.client.inode
    assert get(stuck, "k8s.pod.uid") == pod.uid
    assert get(stuck, "container.id") == pod.containers["app"].id


def test_a_pod_that_is_not_on_this_node_is_waited_for_and_named() -> None:
    done = run_program("--pod", "shop/no-such-pod", "--duration", "1")

    assert done.returncode == 0, done.stderr
    assert "not on this node yet: pod shop/no-such-pod" in done.stdout
