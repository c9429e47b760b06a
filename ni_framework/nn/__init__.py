"""The equations, one in each file: functions of tensors, and the few modules that have a table of their own.

The letters of shapes are those of `ni_framework.contracts`. Nothing here depends on recipes, components or training.
"""
