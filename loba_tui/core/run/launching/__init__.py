"""Starts a run of several processes, on this machine and on others, and starts it anew."""
