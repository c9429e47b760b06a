"""Types and messages made of the entries of a learned codebook: multi-headed vector quantisation."""
