"""What is kept of the objects that the API server lists: the few fields that names follow from.

A cluster has 10,000 services and 50,000 endpoints; each object's JSON is some kilobytes, what is
kept of it a hundred bytes. Readers take documents as decoded from JSON, whatever their shape, and
return None for what is no such object, or one that no name follows from: then nothing may be kept
of it. The `*_document` functions are their inverses.

Addresses are kept as the kernel's are written: by inet_ntop(3), IPv4-mapped ones as IPv4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from tracer.kube.pod import TCP, mapping, mappings, port_number, shared_text, text

SERVICE_NAME: Final = "kubernetes.io/service-name"
"""The label that ties an EndpointSlice to its service."""

_FAMILIES: Final = {"IPv4": 4, "IPv6": 6}
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a service. `name` is empty where it is the only one; `node_port` is on nodes."""

    name: str
    protocol: str
    port: int
    node_port: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """A v1 Service. `addresses`: cluster, external and load-balancer IPs; none where headless."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    has_selector: bool = True


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """One endpoint of a slice. `pod` is the "namespace/name" of its pod, of the slice's namespace.

    An endpoint has one address: the API gives further ones no meaning, kube-proxy skips them.
    `ready` follows the API: a condition that is not set counts as true.
    """

    address: str
    ready: bool
    pod: str | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """A discovery.k8s.io/v1 EndpointSlice of `service`, in its namespace.

    family  4 or 6
    ports   names and numbers of the TCP ports that the endpoints serve. The name is that of the
            service's port, the number the endpoints' own; None: all of them. A slice without
            endpoints may have no ports
    """

    namespace: str
    name: str
    service: str
    family: int
    ports: tuple[tuple[str, int | None], ...]
    endpoints: tuple[EndpointRecord, ...]


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A v1 Node. `addresses`: internal and external IPs."""

    name: str
    addresses: tuple[str, ...]


def canonical(address: object) -> str | None:
    """An IP address as the kernel's are written; None for what is none.

    IPv4 with leading zeros is refused: which number they mean depends on who reads them.
    """
    if not isinstance(address, str):
        return None
    try:
        if ":" not in address:
            return inet_ntop(AF_INET, inet_pton(AF_INET, address))
        packed = inet_pton(AF_INET6, address)
    except (OSError, ValueError):  # ValueError: not text that C can take
        return None
    if packed.startswith(_MAPPED):
        return inet_ntop(AF_INET, packed[12:])
    return inet_ntop(AF_INET6, packed)


@lru_cache(4_096)
def parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    """The same as a number; None for what is none."""
    written = canonical(address)
    return None if written is None else ip_address(written)


@lru_cache(maxsize=16_384)
def is_public(address: str) -> bool:
    """Whether an address, as canonical() writes it, is one of the internet (IANA's registries).

    Remembered: it takes longer than the rest of a look-up.
    """
    return ip_address(address).is_global


def read_service(document: object) -> ServiceRecord | None:
    """A v1 Service; None where it has no name or namespace. Headless ones have no addresses."""
    service = mapping(document)
    metadata, spec, status = (mapping(service.get(key)) for key in ("metadata", "spec", "status"))
    namespace, name = shared_text(metadata.get("namespace")), text(metadata.get("name"))
    if namespace is None or name is None:
        return None
    return ServiceRecord(
        namespace=namespace,
        name=name,
        addresses=_service_addresses(spec, status),
        ports=_service_ports(spec.get("ports")),
        has_selector=bool(mapping(spec.get("selector"))),
    )


def read_slice(document: object) -> SliceRecord | None:
    """A discovery.k8s.io/v1 EndpointSlice; None where it belongs to no service, or holds no IPs."""
    endpoint_slice = mapping(document)
    metadata = mapping(endpoint_slice.get("metadata"))
    namespace, name = shared_text(metadata.get("namespace")), text(metadata.get("name"))
    service = shared_text(mapping(metadata.get("labels")).get(SERVICE_NAME))
    address_type = endpoint_slice.get("addressType")
    family = _FAMILIES.get(address_type) if isinstance(address_type, str) else None
    if namespace is None or name is None or service is None or family is None:
        return None
    return SliceRecord(
        namespace=namespace,
        name=name,
        service=service,
        family=family,
        ports=_slice_ports(endpoint_slice.get("ports")),
        endpoints=tuple(
            endpoint
            for one in mappings(endpoint_slice.get("endpoints"))
            if (endpoint := _endpoint(one, namespace)) is not None
        ),
    )


def read_node(document: object) -> NodeRecord | None:
    """A v1 Node; None where it has no name."""
    node = mapping(document)
    name = shared_text(mapping(node.get("metadata")).get("name"))
    if name is None:
        return None
    addresses = (
        canonical(one.get("address"))
        for one in mappings(mapping(node.get("status")).get("addresses"))
        if one.get("type") in ("InternalIP", "ExternalIP")
    )
    return NodeRecord(name, _each_once(addresses))


def service_document(service: ServiceRecord) -> dict[str, object]:
    """A v1 Service with what is known of `service` and nothing else."""
    return {
        "metadata": {"namespace": service.namespace, "name": service.name},
        "spec": {
            "clusterIPs": list(service.addresses),
            "ports": [
                {"name": one.name, "protocol": one.protocol, "port": one.port}
                | ({} if one.node_port is None else {"nodePort": one.node_port})
                for one in service.ports
            ],
            "selector": {"": ""} if service.has_selector else None,
        },
    }


def slice_document(record: SliceRecord) -> dict[str, object]:
    """A discovery.k8s.io/v1 EndpointSlice with what is known of `record` and nothing else."""
    return {
        "metadata": {
            "namespace": record.namespace,
            "name": record.name,
            "labels": {SERVICE_NAME: record.service},
        },
        "addressType": "IPv4" if record.family == 4 else "IPv6",
        "ports": [{"name": name, "port": port} for name, port in record.ports],
        "endpoints": [_endpoint_document(one) for one in record.endpoints],
    }


def node_document(node: NodeRecord) -> dict[str, object]:
    """A v1 Node with what is known of `node` and nothing else."""
    return {
        "metadata": {"name": node.name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": one} for one in node.addresses],
        },
    }


def _service_addresses(spec: Mapping[str, object], status: Mapping[str, object]) -> tuple[str, ...]:
    balancer = mapping(status.get("loadBalancer"))
    found: list[object] = [spec.get("clusterIP")]  # "None" where headless, which is no address
    for several in (spec.get("clusterIPs"), spec.get("externalIPs")):
        found += several if isinstance(several, list) else ()
    found += [one.get("ip") for one in mappings(balancer.get("ingress"))]
    return _each_once(canonical(one) for one in found)


def _service_ports(ports: object) -> tuple[ServicePort, ...]:
    return _shared_service_ports(
        tuple(
            (
                text(one.get("name")) or "",
                text(one.get("protocol")) or TCP,
                number,
                port_number(one.get("nodePort")),
            )
            for one in mappings(ports)
            if (number := port_number(one.get("port"))) is not None
        )
    )


@lru_cache(4_096)
def _shared_service_ports(
    ports: tuple[tuple[str, str, int, int | None], ...],
) -> tuple[ServicePort, ...]:
    """Most services have the same few ports: those are kept once."""
    return tuple(ServicePort(*port) for port in ports)


def _slice_ports(ports: object) -> tuple[tuple[str, int | None], ...]:
    return _shared_slice_ports(
        tuple(
            (text(one.get("name")) or "", port_number(one.get("port")))
            for one in mappings(ports)
            if (text(one.get("protocol")) or TCP) == TCP
        )
    )


@lru_cache(4_096)
def _shared_slice_ports(
    ports: tuple[tuple[str, int | None], ...],
) -> tuple[tuple[str, int | None], ...]:
    return ports


def _endpoint(endpoint: Mapping[str, object], namespace: str) -> EndpointRecord | None:
    addresses = endpoint.get("addresses")
    address = canonical(addresses[0]) if isinstance(addresses, list) and addresses else None
    if address is None:
        return None
    conditions, target = endpoint.get("conditions"), endpoint.get("targetRef")
    return EndpointRecord(
        address,
        not (isinstance(conditions, dict) and conditions.get("ready") is False),
        _target_pod(target, namespace) if isinstance(target, dict) else None,
        shared_text(endpoint.get("nodeName")),
    )


def _target_pod(target: Mapping[str, object], namespace: str) -> str | None:
    """None for a pod of another namespace: who may write slices in one speaks for that alone."""
    name = text(target.get("name"))
    if target.get("kind") != "Pod" or name is None:
        return None
    of = text(target.get("namespace")) or namespace
    return f"{namespace}/{name}" if of == namespace else None


def _endpoint_document(endpoint: EndpointRecord) -> dict[str, object]:
    document: dict[str, object] = {"addresses": [endpoint.address]}
    if not endpoint.ready:
        document["conditions"] = {"ready": False}
    if endpoint.node is not None:
        document["nodeName"] = endpoint.node
    if endpoint.pod is not None:
        document["targetRef"] = {"kind": "Pod", "name": endpoint.pod.partition("/")[2]}
    return document


def _each_once(addresses: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for one in addresses if one is not None))
