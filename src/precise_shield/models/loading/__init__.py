"""A model with all it needs to be asked something: found, checked, and loaded."""
