"""Can it be believed: causes, judges, gate, search, attacks on it, and its data."""
