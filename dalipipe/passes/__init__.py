"""Passes: runs of operators that an engine applies in one go, a module per modality."""
