"""The embedded default: a tiny vision-language model of ten languages, and its small world."""
