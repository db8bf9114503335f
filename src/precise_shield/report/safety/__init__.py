"""Is it safer, and at what cost: the verdict, its tiles, maps and tables."""
