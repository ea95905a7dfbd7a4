"""Pods and containers by the names in the kubelet's log folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.host import kubelet
from tracer.host.kubelet import containers_by_id, pods_by_uid

ID = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"
UID = "d3456794-3e99-4819-80bf-24f578359604"
STATIC_UID = "3b1f6c0d9e8a7b5c4d2e1f0a9b8c7d6e"


def make(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).mkdir()
    return str(folder)


def test_pods_are_named_by_the_uid_in_their_log_folders(tmp_path: Path) -> None:
    folder = make(tmp_path, f"shop_cart-0_{UID}", f"kube-system_etcd-node1.example_{STATIC_UID}")
    assert pods_by_uid(folder) == {
        UID: ("shop", "cart-0"),
        STATIC_UID: ("kube-system", "etcd-node1.example"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "lost+found",
        "shop_cart-0",
        f"shop__{UID}",
        f"_cart-0_{UID}",
        "shop_cart-0_",
        f"shop_cart_0_{UID}",
        f"Shop_cart-0_{UID}",
        f"shop_cart\x1b[2J_{UID}",
        "shop_cart-0_uid with blanks",
        f"shop.x_cart-0_{UID}",
        f"shop_cart\n_{UID}",
    ],
)
def test_folder_with_another_name_is_no_pods(tmp_path: Path, name: str) -> None:
    assert pods_by_uid(make(tmp_path, name)) == {}


def test_uid_with_two_names_has_none(tmp_path: Path) -> None:
    folder = make(
        tmp_path, f"shop_cart-0_{UID}", f"kube-system_dns_{UID}", f"a_b_{UID}", f"a_b_{STATIC_UID}"
    )
    assert pods_by_uid(folder) == {STATIC_UID: ("a", "b")}


def test_containers_are_named_by_the_id_in_their_logs_name(tmp_path: Path) -> None:
    other = ID[::-1]
    folder = make(
        tmp_path, f"cart-0_shop_app-{ID}.log", f"etcd-node1.example_kube-system_a-b-{other}.log"
    )
    assert containers_by_id(folder) == {ID: "app", other: "a-b"}


@pytest.mark.parametrize(
    "name",
    [
        f"cart-0_shop_app-{ID}.log.1",
        f"cart-0_shop_app-{ID[:-1]}.log",
        f"cart-0_shop_app-{ID.upper()}.log",
        f"cart-0_shop_-{ID}.log",
        f"cart-0_shop-app-{ID}.log",
        f"cart-0_shop_x_app-{ID}.log",
        f"Cart-0_shop_app-{ID}.log",
        f"cart-0_shop_a.b-{ID}.log",
        f"cart-0_shop_app-{ID}",
    ],
)
def test_link_with_another_name_is_no_containers(tmp_path: Path, name: str) -> None:
    assert containers_by_id(make(tmp_path, name)) == {}


def test_log_name_that_the_kubelet_had_to_cut_tells_nothing(tmp_path: Path) -> None:
    whole = f"{'p' * 120}_{'n' * 40}_{'c' * 40}-{ID}"
    assert containers_by_id(make(tmp_path, f"{whole[:251]}.log")) == {}


def test_machine_without_a_kubelet_has_no_pods_and_containers(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert pods_by_uid(missing) == {}
    assert containers_by_id(missing) == {}


def test_no_more_names_are_read_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubelet, "MAX_ENTRIES", 3)
    folder = make(tmp_path, *(f"shop_cart-{number}_{number}" for number in range(5)))
    assert len(pods_by_uid(folder)) == 3
