"""What every stage stands on: configuration, run, processes, data."""
