"""Answers that are sums of what each element contributes: feature-wise latent additive networks."""
