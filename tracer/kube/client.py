"""Asks the Kubernetes API what a pod is, and opens connections to it.

Beside tracer.kube.config the only importer of the `kubernetes` client, and only once a client is
made: loading it takes 0.3 s and 35 MB. Its generated API would double both, for one path of the API
that is asked for here. Exceptions are translated, without the bodies of answers, which may hold
secrets: what a message needs is taken out of them by patterns.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

from tracer import __version__
from tracer.errors import InputError, KubeError, KubeForbidden
from tracer.kube.config import complaints, find_configuration
from tracer.kube.dial import Keep, Target, dial
from tracer.kube.pod import PodInfo, mapping, parse_pod, text
from tracer.text import safe

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject

_Answer = TypeVar("_Answer")

CONNECT_SECONDS: Final = 5.0
"""A connect that takes longer is stuck: its first two retransmissions went unanswered."""
READ_SECONDS: Final = 10.0
"""For an answer: admission webhooks, which may have to be asked first, have 10 s by default."""

# The API server's words for a refusal by RBAC (k8s.io/apiserver, responsewriters/errors.go).
RBAC_REFUSAL: Final = re.compile(r'User "(?P<user>[^"]{1,256})" cannot (?P<verb>[a-z]+) resource "')
_ADMISSION_REFUSAL = re.compile(r"denied the request|ValidatingAdmissionPolicy|denied request")
_REASON = re.compile(r"[A-Za-z]{1,64}")  # metav1.StatusReason: one CamelCase word
_MAX_ADDRESS_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the API, for messages: "pods/exec", "create", of that pod."""

    resource: str
    verb: str
    namespace: str
    name: str


def connect(kubeconfig: str | None) -> KubeClient:
    """A client for the cluster of `kubeconfig`; without one, of this pod, else of this user.

    This pod's cluster is known by its service account, the user's by $KUBECONFIG or
    ~/.kube/config, as for kubectl. Nothing is sent yet, but a credential plugin may run, for as
    long as it likes. Raises InputError where there is no usable configuration, saying what was
    looked at, or where the server's address is none.
    """
    return KubeClient(find_configuration(kubeconfig))


class KubeClient:
    """A way to one API server, to be closed.

    Of several threads each may call headers() and dial() at any time, which share nothing but the
    configuration: a lock is held while the library renews a token in it. All else is for one
    thread.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._renewing = threading.Lock()
        _check_address(str(configuration.host))
        self._proxy()  # before the library meets one that it lacks a package for

    @cached_property
    def _rest(self) -> RESTClientObject:
        from kubernetes.client.rest import RESTClientObject

        return RESTClientObject(self._configuration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open now, not when the garbage collector comes by (urllib3 since 2.0)."""
        if "_rest" not in self.__dict__:
            return
        pools = self._rest.pool_manager.pools
        for key in pools.keys():  # noqa: SIM118 (it cannot be iterated over itself)
            pools[key].close()

    @property
    def url(self) -> SplitResult:
        """Of the API server. Behind a gateway it may have a path that goes before /api."""
        return urlsplit(str(self._configuration.host))

    @property
    def server(self) -> str:
        """The API server as messages name it: without a user or password in its URL."""
        return f"{self.url.scheme}://{self.url.netloc.rpartition('@')[2]}"

    def pod(self, namespace: str, name: str) -> PodInfo:
        """The pod as the API server knows it now.

        Raises KubeForbidden where that is not permitted, KubeError where there is no such pod or
        the server cannot be asked.
        """
        asked = Request("pods", "get", namespace, name)
        status, body = self.ask(lambda: self._get(pod_path(namespace, name)))
        if status != HTTPStatus.OK:
            raise self.refusal(status, body, asked)
        try:
            document: object = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        return parse_pod(document, namespace, name)

    def _get(self, path: str) -> tuple[int, bytes]:
        import urllib3

        with warnings.catch_warnings():
            # Whoever turned the check of certificates off in the kubeconfig knows.
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            answer = self._rest.request(
                "GET",
                f"{self._configuration.host}{path}",
                headers={**self.headers(), "Accept": "application/json"},
                _request_timeout=(CONNECT_SECONDS, READ_SECONDS),
            )
            return int(answer.status), bytes(answer.read())

    def headers(self) -> dict[str, str]:
        """Who asks, for people and for the API server; a token is renewed when due.

        That may run a credential plugin, and raise OSError or ConfigException: see ask().
        """
        with self._renewing, complaints():  # the library logs why a plugin failed, and goes on
            settings = list(self._configuration.auth_settings().values())
        return {"User-Agent": f"synsent-trace/{__version__}"} | {
            str(one["key"]): str(one["value"]).strip() for one in settings if one.get("value")
        }

    def dial(self, limit_seconds: float, keep: Keep | None = None) -> socket.socket:
        """A connected socket to the API server, through its proxy and with TLS where configured.

        A connect gets CONNECT_SECONDS, later reads READ_SECONDS, neither more than
        `limit_seconds`. For what the client library cannot do with a timeout, or cannot be stopped
        from doing: see tracer.kube.exec and tracer.kube.line. With `keep` the sockets are its to
        close, also where this raises: see tracer.kube.dial.
        """
        made: list[socket.socket] = []
        connect_seconds, read_seconds = (
            min(seconds, limit_seconds) for seconds in (CONNECT_SECONDS, READ_SECONDS)
        )
        try:
            return dial(self._target(), connect_seconds, read_seconds, keep or made.append)
        except BaseException:
            for each in made:
                each.close()
            raise

    def _target(self) -> Target:
        url, proxy = self.url, self._proxy()
        secure = url.scheme == "https"
        return Target(
            host=url.hostname or "",
            port=url.port or (443 if secure else 80),
            tls=self._tls() if secure else None,
            server_name=self._configuration.tls_server_name,
            proxy=None if proxy is None else (proxy.hostname or "", proxy.port or 80),
            proxy_headers=self._configuration.proxy_headers or {},
        )

    def ask(self, call: Callable[[], _Answer]) -> _Answer:
        """What `call` returns, with whatever library and network raise turned into a KubeError.

        It is raised once the original is gone, whose frames keep the connection open.
        """
        import urllib3
        from kubernetes.client.rest import ApiException
        from kubernetes.config import ConfigException

        try:
            return call()
        except (
            ApiException,  # the library's own for TLS
            ConfigException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
        ) as error:
            problem = self._unreachable(error)
        raise problem

    def refusal(self, status: int, body: str | bytes | None, asked: Request) -> KubeError:
        """The error for an answer that is not a success, with nothing of its body but known words.

        `body` is a metav1.Status in JSON, or plain text of a proxy or kubelet.
        """
        answer = parse_status(body)
        pod = f"{asked.namespace}/{asked.name}"
        if status == HTTPStatus.UNAUTHORIZED:
            return KubeError(
                f"{self.server} does not accept the credentials",
                hint="they may have expired: log in again, or check the user of the kubeconfig",
            )
        if status == HTTPStatus.FORBIDDEN:
            return self._forbidden(text(answer.get("message")) or "", asked)
        if status == HTTPStatus.NOT_FOUND:
            return KubeError(
                f"no pod {pod} in the cluster of {self.server}",
                hint="it may have been replaced: `kubectl get pods "
                f"-n {asked.namespace}` lists those there are",
            )
        return KubeError(
            f"{self.server} answered {status} ({reason_of(status, answer)}) to {asked.resource}: "
            f"{asked.verb} of pod {pod}"
        )

    def _forbidden(self, message: str, asked: Request) -> KubeError:
        what = f"{asked.resource}: {asked.verb} in namespace {asked.namespace}"
        if (refusal := RBAC_REFUSAL.search(message)) is not None:
            user = refusal["user"]
            what = f"{asked.resource}: {refusal['verb']} in namespace {asked.namespace}"
            if user == "system:anonymous":
                return KubeForbidden(
                    f"not permitted: {what}: {self.server} was given no credentials",
                    hint="check the user of the kubeconfig; its credential plugin may have failed",
                )
            what += f", to {safe(user)}"
        elif _ADMISSION_REFUSAL.search(message):
            return KubeForbidden(
                f"not permitted: {what}: an admission policy of the cluster denies it",
                hint="run on the pod's node instead, where its sockets can be read without exec",
            )
        resource, _, subresource = asked.resource.partition("/")
        # Over WebSocket exec is a GET, authorized as such; 1.35 asks for create besides
        # (AuthorizePodWebsocketUpgradeCreatePermission, kubernetes/kubernetes pull 134577).
        verbs = "the verbs get and create" if subresource else f"the verb {asked.verb}"
        option = f" --subresource={subresource}" if subresource else ""
        return KubeForbidden(
            f"not permitted: {what}",
            hint=f"ask for a Role with {verbs} on {asked.resource}; `kubectl auth can-i "
            f"{'create' if subresource else asked.verb} {resource}{option} -n {asked.namespace}` "
            "tells whether it is granted",
        )

    def _unreachable(self, error: Exception) -> KubeError:
        return KubeError(
            f"cannot ask the API server {self.server}: {why(error)}",
            hint="check that its address can be reached from here and is the one of the "
            "kubeconfig's current context",
        )

    def _tls(self) -> ssl.SSLContext:
        configuration = self._configuration
        context = ssl.create_default_context(
            cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data
        )
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        return context

    def _proxy(self) -> SplitResult | None:
        from requests.utils import should_bypass_proxies  # as the client library decides it

        configuration = self._configuration
        if not configuration.proxy or should_bypass_proxies(
            configuration.host, configuration.no_proxy
        ):
            return None
        proxy = urlsplit(str(configuration.proxy))
        if proxy.scheme != "http":
            raise InputError(
                f"cannot ask {self.server} through the proxy {proxy.scheme}://{proxy.hostname}",
                hint="only http:// proxies can be used: set the proxy-url of the kubeconfig, or "
                "HTTPS_PROXY, or NO_PROXY for the API server",
            )
        return proxy


def _check_address(server: str) -> None:
    """Raises InputError for what is no URL of a server: the libraries would say so much later."""
    try:
        url = urlsplit(server)
        usable = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        (url.hostname or "").encode("idna")  # as getaddrinfo(3) is asked
    except ValueError:
        usable = False
    if not usable:
        without_password = safe(server.rpartition("@")[2])[:_MAX_ADDRESS_CHARACTERS]
        raise InputError(
            f"{without_password or 'nothing'} is no address of an API server",
            hint="the `server` of the kubeconfig's cluster has the form https://10.0.0.1:6443",
        )


def pod_path(namespace: str, name: str) -> str:
    """Of a pod in the API; names are checked by the server alone."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"


def why(error: BaseException) -> str:
    """What went wrong on the network, in words: the first cause that the system itself named."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        if cause in causes:
            break
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or 'the connection was closed'}"
        if isinstance(cause, TimeoutError):
            return f"no answer (a connect gets {CONNECT_SECONDS:g} s, an answer {READ_SECONDS:g} s)"
        if isinstance(cause, OSError) and (told := cause.strerror or str(cause)):
            return told
    return type(error).__name__


def parse_status(body: str | bytes | None) -> Mapping[str, object]:
    """A metav1.Status as far as it is one; empty where it is none."""
    try:
        return mapping(json.loads(body or ""))
    except (ValueError, RecursionError):
        return {}


def reason_of(status: int, answer: Mapping[str, object]) -> str:
    """The reason that a metav1.Status gives, else what the HTTP status is called."""
    reason = text(answer.get("reason"))
    if reason is not None and _REASON.fullmatch(reason):
        return reason
    return http.client.responses.get(status, "no reason given")
