"""What a report asks and says its numbers with: one estimate a question, words, tables."""
