"""The equations, one to a file: functions of tensors, and the few modules that hold a table of their own.

Letters as in `ni_framework.contracts`. Nothing here knows recipes, components or training.
"""
