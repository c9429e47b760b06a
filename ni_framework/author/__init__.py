"""The author's published model, loaded from its own keyword arguments and state dict, to the last digit.

    model = load_author_model(config, state)     # config: the keyword arguments, state: the author's state dict
    logits = model(inputs)["mnist"]

Defects included: see each part. Source throughout: nasimrahaman/neural-interpreter, commit 17d46f0.
"""

from ni_framework.author.load import load_author_model as load_author_model
