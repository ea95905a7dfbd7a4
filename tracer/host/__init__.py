"""What this machine says of processes and network namespaces."""
