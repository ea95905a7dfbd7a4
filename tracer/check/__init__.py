"""The one-shot check: collects what is in SYN_SENT now, from a node, a pod, a file or a bundle."""
