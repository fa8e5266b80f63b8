"""Options of commands that start a run by several processes."""
