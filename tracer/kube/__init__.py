"""The Kubernetes API: what a pod is, and running a command in one of its containers."""
