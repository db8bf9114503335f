"""Train exactly the chosen neurons, prove that nothing else moved, and hand the result on."""
