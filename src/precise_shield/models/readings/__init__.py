"""What is read off a model without letting it answer: likelihoods, logits, the residual stream."""
