"""Data sets: generated ones, one that comes with scikit-learn, several as tasks of one model, and image files."""
