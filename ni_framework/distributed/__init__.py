"""Several processes of one run: started, connected, watched and ended together."""
