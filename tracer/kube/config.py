"""Finds the cluster and who asks: a kubeconfig, or the service account of the pod this runs in."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.errors import InputError
from tracer.text import safe

if TYPE_CHECKING:
    from kubernetes.client import Configuration

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
DEFAULT_KUBECONFIG: Final = "~/.kube/config"

_MAX_COMPLAINT_CHARACTERS: Final = 300


class NoCredentials(InputError):
    """The configuration is usable, but its credential plugin failed, which may pass."""


def find_configuration(kubeconfig: str | None) -> Configuration:
    """The configuration of `kubeconfig`, else of this pod, else of this user.

    Raises InputError where there is none that can be used, saying what was looked at;
    NoCredentials where all that is missing is what a plugin should have said.
    """
    from kubernetes.client import Configuration

    configuration = Configuration()
    # One attempt is one attempt: urllib3 would multiply the time to connect by four.
    configuration.retries = False
    if kubeconfig is not None:
        _load_kubeconfig(kubeconfig, configuration)
    elif (why_not := _load_service_account(configuration)) is not None:
        found = os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
        if not any(Path(path).expanduser().exists() for path in found.split(":") if path):
            named = "$KUBECONFIG" if os.environ.get("KUBECONFIG") else "the default kubeconfig"
            raise InputError(
                f"no access to a Kubernetes cluster: {why_not}; {named} {found} does not exist",
                hint="give a kubeconfig with --kubeconfig, or run in a pod with a service account",
            )
        _load_kubeconfig(found, configuration)
    return configuration


def _load_service_account(configuration: Configuration) -> str | None:
    """Configure for the cluster that this process runs in; returns why not, where it does not."""
    from kubernetes.config import ConfigException
    from kubernetes.config.incluster_config import InClusterConfigLoader

    if not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "this is no pod ($KUBERNETES_SERVICE_HOST is not set)"
    try:
        InClusterConfigLoader(
            token_filename=f"{SERVICE_ACCOUNT}/token", cert_filename=f"{SERVICE_ACCOUNT}/ca.crt"
        ).load_and_set(configuration)
    except (ConfigException, OSError) as error:
        return f"this pod has no usable service account in {SERVICE_ACCOUNT} ({error})"
    return None


def _load_kubeconfig(path: str, configuration: Configuration) -> None:
    """Configure from a kubeconfig file, or several with colons between. Raises InputError."""
    import yaml
    from kubernetes.config import ConfigException, load_kube_config

    try:
        if ":" not in path:
            Path(path).expanduser().stat()  # the library passes over what is not there
        with complaints() as complained:
            # It would write renewed tokens back into the file; the tracer only reads.
            load_kube_config(path, client_configuration=configuration, persist_config=False)
    except OSError as error:
        named = f"kubeconfig {path}"
        if error.filename not in {None, path, str(Path(path).expanduser())}:
            named = f"{error.filename} of {named}"  # the file of a token
        raise InputError(f"cannot read {named}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(f"kubeconfig {path} is not YAML{where}") from None
    except ConfigException as error:
        # It quotes what it could not use from the first bracket on: users with their tokens.
        told = re.split(r"[\[{]", str(error), maxsplit=1)[0].strip()
        raise InputError(f"cannot use kubeconfig {path}: {told}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not a kubeconfig") from None
    if complained and not (configuration.api_key or configuration.cert_file):
        told = safe(" ".join(complained[0].split()))[:_MAX_COMPLAINT_CHARACTERS]
        raise NoCredentials(
            f"the credential plugin of kubeconfig {path} gave no credentials: {told}",
            hint="run it by hand, or any kubectl command, to see what it needs",
        )


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What is logged as an error meanwhile, instead of on stderr.

    The library logs that a credential plugin failed and goes on without credentials.
    """
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    keep, root = Keep(logging.ERROR), logging.getLogger()
    root.addHandler(keep)
    try:
        yield messages
    finally:
        root.removeHandler(keep)
