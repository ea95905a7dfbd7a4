"""--pod without an API server: kubelet's log folders and real cgroups tell which it is."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.netns import SERVER_V4, PodPair, drop_forwarded, pod_pair
from tests.support.pods import kubepods_cgroup, log_folder
from tests.support.tracer import Tracer, get, run_program
from tests.support.wait import wait_until

PORT = 8443
SEEN_SECONDS = 15


def stuck_client_in(pods: PodPair, cgroup: Path) -> Client:
    """A client whose connect begins once it is in the cgroup."""
    client = Client(pods.client, SERVER_V4, PORT, "--wait", "--hold")
    client.wait_ready()
    (cgroup / "cgroup.procs").write_text(str(client.pid))
    return client


@pytest.mark.parametrize("backend", ["bpf", "poll"])
def test_a_pod_is_traced_by_its_name_and_its_attempts_carry_its_uid_and_container(
    tmp_path: Path, backend: str
) -> None:
    uid, name = str(uuid.uuid4()), f"cart-{secrets.token_hex(4)}"
    with (
        pod_pair() as pods,
        pod_pair() as others,
        kubepods_cgroup(uid) as cgroup,
        log_folder(f"shop_{name}_{uid}"),
    ):
        for pair in (pods, others):
            drop_forwarded(pair)
        client = stuck_client_in(pods, cgroup)
        with Tracer(tmp_path, "--backend", backend, what=("--pod", f"shop/{name}")) as tracer:
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
    assert get(stuck, "k8s.pod.uid") == uid
    assert get(stuck, "container.id") == cgroup.name


def test_a_pod_that_is_not_on_this_node_is_named_and_what_was_looked_at() -> None:
    done = run_program("--pod", "shop/no-such-pod", "--duration", "1")

    assert done.returncode == 2
    assert "shop/no-such-pod" in done.stderr
    assert "/var/log/pods" in done.stderr
    assert "Traceback" not in done.stderr
