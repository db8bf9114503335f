"""How weights lie in memory: whole, packed in 4 or 8 bits, or shared among processes."""
