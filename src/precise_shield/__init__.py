"""Find, explain and strengthen the neurons that carry safety."""

__version__ = "0.1.0"
