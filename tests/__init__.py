"""Tests of synsent-trace: unit/ needs nothing, kernel/ needs root and a real kernel."""
