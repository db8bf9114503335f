"""What a model says: token by token, a batch of examples at a time, or in a conversation."""
