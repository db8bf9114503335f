"""Examples as words and tensors, and which positions of them are what."""
