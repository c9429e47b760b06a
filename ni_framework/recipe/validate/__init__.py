"""From a tree of nodes to frozen values of declared types."""
