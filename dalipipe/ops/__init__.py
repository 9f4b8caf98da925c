"""Operators, a module per modality."""
