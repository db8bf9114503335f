"""Is the model still of use: answers that can be checked without a judge."""
