"""The papers' claims, each beside what was measured."""
