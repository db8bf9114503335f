"""Ask every condition, and measure what it answered."""
