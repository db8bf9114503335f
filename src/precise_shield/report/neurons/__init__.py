"""Where safety lives: the sets over depth, what they share, drive and are sure of."""
