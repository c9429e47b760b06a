"""Types and messages that consist of entries of a learned codebook: multi-headed vector quantisation."""
