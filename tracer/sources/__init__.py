"""What observes sockets."""
