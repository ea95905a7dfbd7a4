"""Sockets and conntrack entries out of text that programs printed: ss, netstat, conntrack, /proc.

`recognise.read` takes any of it. The other modules know one format each.
"""
