"""Trace TCP connects that get no answer, per pod, on a Kubernetes node."""

__version__ = "0.1.0"
