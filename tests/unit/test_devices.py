"""Where a device leads, as sysfs tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.evidence import Clock
from tests.support.reports import HOST, POD
from tracer.evidence.devices import Devices, leads_out


def device(folder: Path, name: str, *, uevent: str = "", kind: int = 1) -> Path:
    made = folder / name
    made.mkdir()
    (made / "uevent").write_text(f"INTERFACE={name}\n{uevent}")
    (made / "type").write_text(f"{kind}\n")
    return made


def test_hardware_leads_out(tmp_path: Path) -> None:
    (device(tmp_path, "ens5") / "device").symlink_to("../../../0000:00:05.0")
    assert leads_out("ens5", str(tmp_path)) is True


@pytest.mark.parametrize(
    ("name", "uevent", "kind"),
    [
        ("vxlan.calico", "DEVTYPE=vxlan\n", 1),
        ("genev_sys_6081", "DEVTYPE=geneve\n", 1),
        ("wg0", "DEVTYPE=wireguard\n", 65_534),
        ("tunl0", "", 768),
        ("sit0", "", 776),
        ("gre0", "", 778),
        ("bond0", "DEVTYPE=bond\n", 1),
        ("ens5.7", "DEVTYPE=vlan\n", 1),
    ],
)
def test_of_tunnels_and_devices_on_top_of_others_nobody_knows(
    tmp_path: Path, name: str, uevent: str, kind: int
) -> None:
    device(tmp_path, name, uevent=uevent, kind=kind)
    assert leads_out(name, str(tmp_path)) is None


@pytest.mark.parametrize("uevent", ["", "DEVTYPE=bridge\n"])
def test_what_leads_to_other_namespaces_stays(tmp_path: Path, uevent: str) -> None:
    device(tmp_path, "veth1", uevent=uevent)
    assert leads_out("veth1", str(tmp_path)) is False


@pytest.mark.parametrize("name", ["eth9", "../ens5"])
def test_of_what_sysfs_does_not_show_nothing_is_said(tmp_path: Path, name: str) -> None:
    shown = tmp_path / "net"
    shown.mkdir()
    device(tmp_path, "ens5")
    assert leads_out(name, str(shown)) is None


def test_a_device_without_details_stays(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    assert leads_out("odd", str(tmp_path)) is False


def test_what_took_the_place_of_a_device_is_looked_at_anew() -> None:
    clock, leading = Clock(), {"ens5"}
    asked: list[str] = []

    def of_host(name: str) -> bool:
        asked.append(name)
        return name in leading

    devices = Devices(HOST, lambda _netns: None, of_host=of_host, clock=clock)
    assert [devices.leads_out("ens5", HOST) for _ in range(100)] == [True] * 100
    assert asked == ["ens5"]
    leading.clear()
    clock.now += 11
    assert devices.leads_out("ens5", HOST) is False
    leading.add("ens5")
    devices.forget()
    assert devices.leads_out("ens5", HOST) is True


def test_of_a_namespace_that_is_gone_nothing_is_said() -> None:
    devices = Devices(HOST, lambda _netns: None, of_host=lambda _name: True, clock=Clock())
    assert devices.leads_out("eth0", POD) is None
    assert devices.leads_out("eth0", None) is None
