"""Data sets of labelled images that are read from files which the user provides."""
