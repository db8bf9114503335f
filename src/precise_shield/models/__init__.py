"""Everything that knows what a model of the transformers library looks like inside."""
