"""Bodies that replace lines of code: experts with private weights, and convolutions."""
