"""Six ways to be stuck, made in network namespaces, with the screen on top."""
