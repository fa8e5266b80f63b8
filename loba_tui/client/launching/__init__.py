"""Which processes of which hosts train a run, as the user says it."""
