"""DeepSpeed's settings in a recipe: the accepted keys, the rejected keys, and the rules between keys."""
