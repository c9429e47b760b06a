"""What a trained model is made of, how two models differ, what a run measured, and how fast a recipe's model is."""
