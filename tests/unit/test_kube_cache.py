"""The names on disk: what comes back, what is refused, what is left when saving fails."""

from __future__ import annotations

import gzip
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import kube_scale
from tracer.kube import cache
from tracer.kube.cache import Cached, cache_file, load, save
from tracer.kube.names import Names, Resource
from tracer.kube.pod import POD_ENI, PodInfo, read_pod
from tracer.kube.policy_records import NamespaceRecord, read_policy
from tracer.kube.records import (
    EndpointRecord,
    NodeRecord,
    ServicePort,
    ServiceRecord,
    SliceRecord,
    read_service,
    read_slice,
)

FIXTURES = Path(__file__).parents[1] / "fixtures/kube"

NODE = "node1"
NAMED = [Resource.PODS, Resource.SERVICES, Resource.ENDPOINT_SLICES, Resource.NODES]
"""Resources that names follow from."""
SAVED_NS = 1_700_000_000_000_000_000
ENI = '[{"eniId":"eni-0123456789abcdef0"}]'


def recorded_pods() -> list[PodInfo]:
    items = json.loads((FIXTURES / "pods-on-node1.json").read_text())["items"]
    items[0]["metadata"]["annotations"] = {POD_ENI: ENI, "example.com/token": "hunter2"}
    items[0]["spec"]["containers"][0]["env"] = [{"name": "PASSWORD", "value": "hunter2"}]
    return [one for each in items if (one := read_pod(each)) is not None]


@pytest.fixture
def names() -> Names:
    """The recorded cluster."""
    made = Names()
    made.replace(Resource.PODS, recorded_pods())
    for resource, name, read in (
        (Resource.SERVICES, "services.json", read_service),
        (Resource.ENDPOINT_SLICES, "endpointslices.json", read_slice),
    ):
        items = json.loads((FIXTURES / name).read_text())["items"]
        made.replace(resource, [one for each in items if (one := read(each)) is not None])
    made.replace(Resource.NODES, [NodeRecord(NODE, ("192.0.2.2",))])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var/cache"


@pytest.fixture
def file(folder: Path, names: Names) -> Path:
    """What was saved of the recorded cluster."""
    save(folder, NODE, names, SAVED_NS)
    return cache_file(folder, NODE)


def lines(file: Path) -> list[bytes]:
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)


def rewrite(file: Path, *those: bytes) -> None:
    file.write_bytes(gzip.compress(b"".join(those)))


def loaded(folder: Path, node: str = NODE) -> Names:
    found = load(folder, node)
    assert found is not None
    filled = Names()
    found.fill(filled)
    return filled


# -- there and back --------------------------------------------------------------------------------


def test_everything_comes_back_as_it_was_saved(folder: Path, file: Path, names: Names) -> None:
    assert file.exists()
    found = loaded(folder)
    for resource in NAMED:
        assert found.records(resource) == names.records(resource)
        assert found.listed(resource)
    before = names.destination("10.96.162.209", 80)
    assert before is not None
    # How many endpoints are ready is no longer known.
    assert found.destination("10.96.162.209", 80) == replace(before, endpoints=None)


def test_the_time_comes_back_at_which_the_names_were_true(folder: Path, names: Names) -> None:
    save(folder, NODE, names, SAVED_NS)
    found = load(folder, NODE)
    assert found is not None
    assert found.saved_wall_ns == SAVED_NS
    before = time.time_ns()
    save(folder, NODE, names)
    found = load(folder, NODE)
    assert found is not None
    assert before <= found.saved_wall_ns <= time.time_ns()


def test_a_time_that_is_yet_to_come_counts_as_now(folder: Path, names: Names) -> None:
    save(folder, NODE, names, time.time_ns() + 10**15)
    found = load(folder, NODE)
    assert found is not None
    assert found.saved_wall_ns <= time.time_ns()


def test_what_is_unknown_comes_back_as_unknown(folder: Path) -> None:
    some = Names()
    some.replace(Resource.SERVICES, [ServiceRecord("shop", "web", ("10.96.0.1",), ())])
    some.replace(Resource.NODES, [])
    save(folder, NODE, some)
    found = loaded(folder)
    assert [found.listed(each) for each in NAMED] == [False, True, False, True]


def test_what_had_no_room_in_memory_is_not_said_to_be_all(folder: Path) -> None:
    some = Names(dict.fromkeys(Resource, 2))
    some.replace(
        Resource.NODES, [NodeRecord("node1", ("192.0.2.2",)), NodeRecord("node2", ("192.0.2.3",))]
    )
    some.replace(Resource.PODS, [])
    save(folder, NODE, some)
    assert [each for each in Resource if loaded(folder).listed(each)] == [Resource.PODS]


def test_what_the_api_has_told_is_not_overwritten(folder: Path, file: Path) -> None:
    assert file.exists()
    current = Names()
    current.replace(Resource.PODS, [])
    found = load(folder, NODE)
    assert found is not None
    found.fill(current)
    assert current.records(Resource.PODS) == []
    assert len(current.records(Resource.SERVICES)) == 4


def test_policies_are_not_kept(folder: Path, names: Names) -> None:
    policy = read_policy({"metadata": {"namespace": "shop", "name": "deny"}, "spec": {}})
    assert policy is not None
    names.replace(Resource.NETWORK_POLICIES, [policy])
    names.replace(Resource.NAMESPACES, [NamespaceRecord("shop", {})])
    save(folder, NODE, names)
    found = loaded(folder)
    assert [each for each in Resource if found.listed(each)] == NAMED


def test_the_last_save_counts(folder: Path, file: Path, names: Names) -> None:
    names.remove(Resource.PODS, "shop", "db-0")
    save(folder, NODE, names)
    assert loaded(folder).pod("d3456794-3e99-4819-80bf-24f578359604") is None
    assert list(folder.iterdir()) == [file]


name_texts = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=8)
addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"])


def with_pods_of_its_namespace(one: SliceRecord) -> SliceRecord:
    return replace(
        one,
        endpoints=tuple(
            each if each.pod is None else replace(each, pod=f"{one.namespace}/{each.pod}")
            for each in one.endpoints
        ),
    )


@given(
    service=st.builds(
        ServiceRecord,
        name_texts,
        name_texts,
        st.lists(addresses, unique=True).map(tuple),
        st.lists(
            st.builds(
                ServicePort,
                st.text(),
                st.sampled_from(["TCP", "UDP", "SCTP"]),
                st.integers(1, 65_535),
                st.none() | st.integers(1, 65_535),
            )
        ).map(tuple),
        st.booleans(),
    ),
    endpoint_slice=st.builds(
        SliceRecord,
        name_texts,
        name_texts,
        name_texts,
        st.sampled_from([4, 6]),
        st.lists(st.tuples(st.text(), st.none() | st.integers(1, 65_535))).map(tuple),
        st.lists(
            st.builds(
                EndpointRecord,
                addresses,
                st.booleans(),
                st.none() | name_texts,
                st.none() | name_texts,
            ),
            unique=True,
        ).map(tuple),
    ).map(with_pods_of_its_namespace),
    node=st.builds(NodeRecord, name_texts, st.lists(addresses, unique=True).map(tuple)),
)
def test_any_record_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    service: ServiceRecord,
    endpoint_slice: SliceRecord,
    node: NodeRecord,
) -> None:
    some = Names()
    some.replace(Resource.SERVICES, [service])
    some.replace(Resource.ENDPOINT_SLICES, [endpoint_slice])
    some.replace(Resource.NODES, [node])
    folder = tmp_path_factory.mktemp("cache")
    save(folder, NODE, some)
    found = loaded(folder)
    assert [found.records(each) for each in NAMED] == [some.records(each) for each in NAMED]


# -- nodes -----------------------------------------------------------------------------------------


def test_another_nodes_names_are_not_taken(folder: Path, file: Path) -> None:
    assert load(folder, "node2") is None
    file.rename(cache_file(folder, "node2"))
    assert load(folder, "node2") is None


@pytest.mark.parametrize(
    "node", ["", ".", "..", "../../etc/passwd", "a/b", "node\0", "\ud800", "n" * 5_000, "nødé"]
)
def test_any_node_name_has_a_file_of_its_own_in_the_folder(
    folder: Path, names: Names, node: str
) -> None:
    save(folder, node, names)
    save(folder, NODE, Names())
    assert len(list(folder.iterdir())) == 2
    assert len(loaded(folder, node).records(Resource.PODS)) == 6
    assert loaded(folder).records(Resource.PODS) == []


def test_names_that_look_alike_do_not_share_a_file(folder: Path) -> None:
    assert (
        len({cache_file(folder, node) for node in ("a/b", "a_b", "a:b", "a" * 99, "a" * 98)}) == 5
    )


# -- what is kept from others ----------------------------------------------------------------------


def test_nobody_else_may_read_it(folder: Path, names: Names) -> None:
    umask = os.umask(0)
    try:
        save(folder, NODE, names)
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_file(folder, NODE).stat().st_mode & 0o777 == 0o600


def test_it_holds_none_of_the_pods_secrets(file: Path) -> None:
    content = b"".join(lines(file))
    assert b"hunter2" not in content
    assert b"eni-0123456789abcdef0" in content


# -- what is not trusted ---------------------------------------------------------------------------


def test_nothing_is_loaded_where_nothing_was_saved(folder: Path) -> None:
    assert load(folder, NODE) is None
    folder.mkdir(parents=True)
    assert load(folder, NODE) is None


def test_every_truncation_is_noticed(folder: Path, file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), 37):
        file.write_bytes(content[:length])
        assert load(folder, NODE) is None
        assert file.stat().st_size == length


def test_every_damaged_byte_is_noticed_or_does_not_matter(folder: Path, file: Path) -> None:
    content = file.read_bytes()
    good = load(folder, NODE)
    for position in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        file.write_bytes(bytes(damaged))
        assert load(folder, NODE) in (None, good)


@given(content=st.binary(max_size=200))
def test_garbage_is_not_loaded(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("cache")
    for written in (content, gzip.compress(content)):
        cache_file(folder, NODE).write_bytes(written)
        assert load(folder, NODE) is None


HEADER = b'{"version":2,"node":"node1","saved_wall_ns":1}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        b'{"version":2,"node":"node1","saved_wall_ns":' + b"9" * 5_000 + b"}\n",
        HEADER.replace(b":2,", b":1,"),
        HEADER.replace(b":2,", b":null,"),
        HEADER.replace(b"node1", b"node2"),
        HEADER.replace(b":1}", b":-1}"),
        HEADER.replace(b":1}", b":true}"),
        HEADER.replace(b":1}", b':"1"}'),
        HEADER.replace(b":1}", b":1.5}"),
        HEADER.rstrip(b"\n"),
        HEADER + b"null\n",
        HEADER + b'{"resource":"pods","all":true,"items":[]}',
        HEADER + b'{"resource":"pods","all":true,"items":null}\n',
        HEADER + b'{"resource":"pods","all":true,"items":[{}]}\n',
        HEADER + b'{"resource":"pods","all":true,"items":[null]}\n',
        HEADER + b'{"resource":"secrets","all":true,"items":[]}\n',
        HEADER + b'{"resource":"networkpolicies","all":true,"items":[]}\n',
        HEADER + b'{"resource":["pods"],"all":true,"items":[]}\n',
        HEADER + b"\xff\xfe\n",
    ],
)
def test_what_save_does_not_write_is_not_loaded(folder: Path, file: Path, content: bytes) -> None:
    rewrite(file, content)
    assert load(folder, NODE) is None
    assert lines(file) == content.splitlines(keepends=True)


def test_a_file_that_unpacks_to_more_than_was_ever_saved_is_not_loaded(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 1 << 16)
    rewrite(file, HEADER, b" " * (1 << 20))
    assert load(folder, NODE) is None
    rewrite(file, HEADER, *[b'{"resource":"pods","items":[]}\n'] * (1 << 12))
    assert load(folder, NODE) is None


def test_a_file_that_others_may_write_is_not_loaded(folder: Path, file: Path) -> None:
    for mode in (0o620, 0o602):
        file.chmod(mode)
        assert load(folder, NODE) is None
    file.chmod(0o640)
    assert load(folder, NODE) is not None


def test_another_users_file_is_not_loaded(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert load(folder, NODE) is None


def test_a_symlink_is_not_followed(folder: Path, file: Path) -> None:
    elsewhere = file.rename(folder / "elsewhere")
    file.symlink_to(elsewhere)
    assert load(folder, NODE) is None
    assert file.is_symlink()


def test_a_pipe_or_a_folder_in_its_place_is_not_waited_for(folder: Path, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    assert load(folder, NODE) is None
    file.unlink()
    file.mkdir()
    assert load(folder, NODE) is None


# -- saving ----------------------------------------------------------------------------------------


def test_a_symlink_in_its_place_is_replaced_and_not_written_through(
    folder: Path, file: Path, names: Names
) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.write_bytes(b"precious")
    file.unlink()
    file.symlink_to(elsewhere)
    save(folder, NODE, names)
    assert elsewhere.read_bytes() == b"precious"
    assert not file.is_symlink()


def test_a_failed_save_leaves_what_was_there(
    folder: Path, file: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(folder, NODE, names)
    assert file.read_bytes() == content
    assert list(folder.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, names: Names) -> None:
    (tmp_path / "cache").write_text("a file")
    for folder in (tmp_path / "cache", tmp_path / "cache/below"):
        with pytest.raises(OSError):  # noqa: PT011 - whichever the system says
            save(folder, NODE, names)


def test_what_a_killed_tracer_left_is_removed_in_time(
    folder: Path, file: Path, names: Names
) -> None:
    old = folder / f"{file.name}.17-42.tmp"
    fresh = folder / f"{file.name}.18-42.tmp"
    foreign = folder / "names-other.json.gz.17-42.tmp"
    for one in (old, fresh, foreign):
        one.write_bytes(b"half")
    for one in (old, foreign):
        os.utime(one, (1, 1))
    save(folder, NODE, names)
    assert sorted(folder.iterdir()) == sorted([file, fresh, foreign])


def test_what_there_is_no_room_for_is_dropped_the_least_of_it_first(
    folder: Path, file: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, *parts = lines(file)
    worth = [Resource.PODS, Resource.NODES, Resource.SERVICES, Resource.ENDPOINT_SLICES]
    assert len(parts) == len(worth)
    for kept in range(len(parts)):
        room = len(header) + sum(map(len, parts[: kept + 1])) - 1
        monkeypatch.setattr(cache, "MAX_BYTES", room)
        save(folder, NODE, names, SAVED_NS)
        found = loaded(folder)
        assert [each for each in worth if found.listed(each)] == worth[:kept]
        assert sum(map(len, lines(file))) <= room


def test_a_resource_that_has_room_in_part_is_dropped_as_a_whole(
    folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_OBJECTS_PER_LINE", 1)
    save(folder, NODE, names, SAVED_NS)
    assert loaded(folder).records(Resource.SERVICES) == names.records(Resource.SERVICES)
    written = lines(cache_file(folder, NODE))
    monkeypatch.setattr(cache, "MAX_BYTES", sum(map(len, written)) - 1)
    save(folder, NODE, names, SAVED_NS)
    assert len(lines(cache_file(folder, NODE))) == len(written) - 1
    assert not loaded(folder).listed(Resource.ENDPOINT_SLICES)


# -- cost ------------------------------------------------------------------------------------------


def test_a_large_cluster_is_saved_within_a_second(folder: Path) -> None:
    large = Names()
    for resource, count, make, read in kube_scale.CLUSTER:
        documents = map(make, range(count))
        large.replace(resource, [one for each in documents if (one := read(each)) is not None])
    seconds = []
    for _ in range(3):
        began = time.process_time()
        save(folder, "node-0", large)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1
    assert cache_file(folder, "node-0").stat().st_size < 4 << 20
    found = load(folder, "node-0")
    assert isinstance(found, Cached)
    assert len(found.records[Resource.ENDPOINT_SLICES]) == 10_000
