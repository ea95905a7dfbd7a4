"""What the kernel tests stand on: namespaces, a client, the program under test."""
