"""Every layout of /proc/PID/cgroup that nodes have, and those that they should not have."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.host.cgroup import UNKNOWN, CgroupIdentity, parse_cgroup, read_cgroup

RECORDED = Path(__file__).parents[1] / "fixtures/kube/proc-cgroups-v1-hybrid.txt"

UID = "d3456794-3e99-4819-80bf-24f578359604"
UID_ = UID.replace("-", "_")
OTHER_UID = "a06be635-826a-4601-bb45-e46426d86dba"
STATIC_UID = "3b1f6c0d9e8a7b5c4d2e1f0a9b8c7d6e"
ID = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"
OTHER_ID = "f239ac8c10fc3456650cf4b8c2193dafa9b76813cf022d86ebc6bf9f124d0ae3"
SLICE = f"kubepods-burstable-pod{UID_}.slice"
SLICES = f"/kubepods.slice/kubepods-burstable.slice/{SLICE}"

CONTAINER = CgroupIdentity(container_id=ID, pod_uid=UID)


def recorded_processes() -> list[tuple[str, str]]:
    """(first line, contents of /proc/PID/cgroup) of each process of the recording."""
    records = RECORDED.read_text().split("pid=")[1:]
    assert len(records) == 10
    return [tuple(record.split("\n", 1)) for record in records]  # type: ignore[misc]


@pytest.mark.parametrize(("process", "text"), recorded_processes())
def test_recorded_process_of_a_hybrid_host_names_its_pod_and_container(
    process: str, text: str
) -> None:
    *_, pod, container = text.splitlines()[-1].split("/")
    expected = CgroupIdentity(container_id=container, pod_uid=pod.removeprefix("pod"))
    assert parse_cgroup(text) == expected, process


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"/kubepods/burstable/pod{UID}/{ID}", id="cgroupfs"),
        pytest.param(f"/kubepods/besteffort/pod{UID}/{ID}", id="cgroupfs best effort"),
        pytest.param(f"/kubepods/pod{UID}/{ID}", id="cgroupfs guaranteed"),
        pytest.param(f"{SLICES}/cri-containerd-{ID}.scope", id="systemd containerd"),
        pytest.param(
            f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
            id="systemd guaranteed",
        ),
        pytest.param(
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice"
            f"/docker-{ID}.scope",
            id="systemd docker",
        ),
        pytest.param(f"{SLICES}/crio-{ID}.scope", id="systemd cri-o"),
        pytest.param(f"{SLICES}/crio-{ID}.scope/container", id="systemd cri-o crun"),
        pytest.param(f"/kubepods/burstable/pod{UID}/crio-{ID}", id="cgroupfs cri-o"),
        pytest.param(
            f"/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}", id="mixed drivers"
        ),
        pytest.param(f"/kubelet/kubepods/burstable/pod{UID}/{ID}", id="kind, inside"),
        pytest.param(
            f"/docker/{OTHER_ID}/kubelet/kubepods/burstable/pod{UID}/{ID}", id="kind, outside"
        ),
        pytest.param(
            f"/system.slice/docker-{OTHER_ID}.scope/kubelet.slice/kubelet-kubepods.slice"
            f"/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID_}.slice"
            f"/cri-containerd-{ID}.scope",
            id="kind, systemd",
        ),
        pytest.param(
            f"/my-pods.slice/my-pods-kubepods.slice/my-pods-kubepods-pod{UID_}.slice/crio-{ID}.scope",
            id="cgroup root of its own",
        ),
        pytest.param(f"/system.slice/k3s.service/kubepods/burstable/pod{UID}/{ID}", id="k3s"),
        pytest.param(f"/../../kubepods/burstable/pod{UID}/{ID}", id="relative cgroupfs"),
        pytest.param(f"/../../../besteffort/pod{UID}/{ID}", id="relative, no kubepods"),
        pytest.param(f"/../../pod{UID}/{ID}", id="relative, pod alone"),
        pytest.param(f"/../../{SLICE}/cri-containerd-{ID}.scope", id="relative systemd"),
        pytest.param(f"/kubepods/burstable/pod{UID}/{ID} (deleted)", id="removed cgroup"),
        pytest.param(f"/kubepods/burstable/pod{UID}/{ID}/init.scope", id="systemd in a container"),
    ],
)
def test_path_of_each_layout_names_pod_and_container(path: str) -> None:
    assert parse_cgroup(f"0::{path}\n") == CONTAINER
    v1 = "".join(f"{number}:controller{number}:{path}\n" for number in range(12, 0, -1))
    assert parse_cgroup(v1) == CONTAINER


def test_static_pod_has_a_uid_without_dashes() -> None:
    expected = CgroupIdentity(container_id=ID, pod_uid=STATIC_UID)
    assert parse_cgroup(f"0::/kubepods/burstable/pod{STATIC_UID}/{ID}\n") == expected
    path = f"/kubepods.slice/kubepods-burstable-pod{STATIC_UID}.slice/cri-containerd-{ID}.scope"
    assert parse_cgroup(f"0::{path}\n") == expected


@pytest.mark.parametrize("scope", [f"crio-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope"])
def test_monitor_of_a_container_is_no_container(scope: str) -> None:
    assert parse_cgroup(f"0::{SLICES}/{scope}\n") == CgroupIdentity(pod_uid=UID)


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID}",
        f"/system.slice/docker-{ID}.scope",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/system.slice/docker-{ID}.scope/system.slice/containerd.service",
        f"/../{ID}",
    ],
)
def test_container_outside_any_pod_has_an_id_alone(path: str) -> None:
    assert parse_cgroup(f"0::{path}\n") == CgroupIdentity(container_id=ID)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/kubelet.service", "kubelet.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/init.scope", "init.scope"),
        ("/user.slice/user-0.slice/session-3.scope", "session-3.scope"),
        ("/user.slice/user-7.slice/user@7.service/app.slice/x.service", "user@7.service"),
        ("/../../system.slice/sshd.service", "sshd.service"),
        (rf"/system.slice/dev\x2ddisk.service{'/supervise'}", r"dev\x2ddisk.service"),
        (f"/system.slice/crio-conmon-{ID}.scope", f"crio-conmon-{ID}.scope"),
        ("/system.slice/a:b.service", "a:b.service"),
    ],
)
def test_process_of_the_host_has_its_systemd_unit(path: str, unit: str) -> None:
    assert parse_cgroup(f"0::{path}\n") == CgroupIdentity(unit=unit)


def test_unit_is_found_among_v1_hierarchies_that_say_nothing() -> None:
    text = "3:cpuset:/\n2:pids:/system.slice\n1:name=systemd:/system.slice/cron.service\n0::/\n"
    assert parse_cgroup(text) == CgroupIdentity(unit="cron.service")


def test_pod_of_one_hierarchy_outweighs_the_unit_of_another() -> None:
    pod = f"4:memory:/kubepods/pod{UID}/{ID}\n"
    unit = "0::/system.slice/containerd.service\n"
    assert parse_cgroup(unit + pod) == CONTAINER
    assert parse_cgroup(pod + unit) == CONTAINER
    assert parse_cgroup(f"9:pids:/docker/{OTHER_ID}\n8:cpu:/kubepods/pod{UID}\n").pod_uid == UID


def test_first_of_the_lines_that_tell_as_much_is_believed() -> None:
    text = f"2:cpu:/kubepods/pod{UID}\n1:pids:/kubepods/pod{OTHER_UID}\n"
    assert parse_cgroup(text) == CgroupIdentity(pod_uid=UID)


def test_line_with_container_outweighs_a_line_with_the_pod_alone() -> None:
    assert parse_cgroup(f"2:cpu:/kubepods/pod{UID}\n0::/kubepods/pod{UID}/{ID}\n") == CONTAINER


@pytest.mark.parametrize(
    "inner", [f"/kubepods/pod{OTHER_UID}/{OTHER_ID}", f"/{SLICE}/crio-{OTHER_ID}.scope"]
)
def test_cgroup_made_inside_a_pod_cannot_claim_to_be_another_pod(inner: str) -> None:
    assert parse_cgroup(f"0::/kubepods/burstable/pod{UID}/{ID}{inner}\n") == CONTAINER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "0::/\n",
        "0::/..\n",
        "0::/../..\n",
        "0::/../../\n",
        "0::/kubepods\n",
        "0::/kubepods.slice/kubepods-burstable.slice\n",
        f"0::/kubepods/pod{UID[:-1]}\n",
        f"0::/kubepods/pod{UID}0\n",
        f"0::/kubepods/pod{UID.replace('-', '_', 1)}\n",
        f"0::/kubepods/pod{UID.upper()}\n",
        f"0::/kubepods/pod{ID}\n",
        f"0::/kubepods.slice/evil-pod{UID_}.slice\n",
        f"0::/{ID[:-1]}\n",
        f"0::/{ID}0\n",
        f"0::/x{ID}\n",
        f"0::/{ID.upper()}\n",
        f"/kubepods/pod{UID}/{ID}\n",
        f"0:/kubepods/pod{UID}/{ID}\n",
        "0::/system.slice\n",
        "0::/system.slice/not a unit.service\n",
        f"0::/system.slice/{'x' * 300}.service\n",
        "0::/a/b.service\n",
    ],
)
def test_what_is_not_certain_stays_unknown(text: str) -> None:
    assert parse_cgroup(text) == UNKNOWN


def test_control_characters_do_not_end_a_line() -> None:
    pod = f"/kubepods/pod{OTHER_UID}/{OTHER_ID}"
    text = f"0::/system.slice\v0::{pod}\u2028\x85\x1e/kubepods/pod{UID}/{ID}\n"
    assert parse_cgroup(text).pod_uid == OTHER_UID
    assert parse_cgroup(f"0::/x\r1:cpu:/pod{UID}\r/y\n") == UNKNOWN


@pytest.mark.parametrize(
    "unit", ["/a", ":", "x::y\n", "-pod", "/pod", "_", ".slice", "/" + "a" * 64, "\0", "/.."]
)
def test_megabytes_of_nonsense_take_linear_time(unit: str) -> None:
    # Quadratic time would take hours, and the test's time limit ends it.
    for text in (unit * (2_000_000 // len(unit)), "0::/" + unit * (2_000_000 // len(unit))):
        assert parse_cgroup(text + ".slice").pod_uid is None


PIECES = st.sampled_from(
    [
        *("0::", "1:cpu:", "/", "..", "pod", "_", "-", ".slice", ".scope", ":", "\n", " (deleted)"),
        *("kubepods", "kubepods-burstable", "crio-", "conmon-", UID, UID_, ID, STATIC_UID),
    ]
)


@given(st.text() | st.lists(PIECES, max_size=30).map("".join))
def test_any_text_gives_well_formed_answers_without_raising(text: str) -> None:
    found = parse_cgroup(text)
    hexadecimal = set(string.hexdigits.lower())
    if found.container_id is not None:
        assert len(found.container_id) == 64
        assert set(found.container_id) <= hexadecimal
    if found.pod_uid is not None:
        assert len(found.pod_uid) in {32, 36}
        assert set(found.pod_uid) <= hexadecimal | {"-"}
    if found.unit is not None:
        assert found.container_id is None
        assert found.pod_uid is None


def test_cgroup_of_a_process_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/cgroup").write_bytes(f"0::/\xff/kubepods/pod{UID}/{ID}\n".encode("latin-1"))
    assert read_cgroup(42, str(tmp_path)) == CONTAINER


def test_cgroup_of_this_process_can_be_read() -> None:
    assert read_cgroup(os.getpid()) == parse_cgroup(Path("/proc/self/cgroup").read_text())


def test_cgroup_of_a_process_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_cgroup(42, str(tmp_path))
