"""Feature-wise latent additive networks: logits that are sums of the contributions of the elements."""
