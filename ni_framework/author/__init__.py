"""The author's published model, built from its own keyword arguments and state dict; its outputs are equal to the last digit.

    model = load_author_model(config, state)     # config: the keyword arguments, state: the author's state dict
    logits = model(inputs)["mnist"]

Defects of the original are reproduced and documented where they occur. Source of all modules here:
nasimrahaman/neural-interpreter, commit 17d46f0.
"""

from ni_framework.author.load import load_author_model as load_author_model
