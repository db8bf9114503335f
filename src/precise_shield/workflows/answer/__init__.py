"""What a state of the model says, and who judges it."""
