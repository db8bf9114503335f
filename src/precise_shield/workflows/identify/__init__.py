"""Find the neurons, and how sure their sets are."""
