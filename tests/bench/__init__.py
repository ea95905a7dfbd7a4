"""What the tracer costs, measured beside nothing at all on the same machine in the same run."""
