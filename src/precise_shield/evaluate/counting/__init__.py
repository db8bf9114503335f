"""From verdicts to numbers: measures, their intervals, and what an average hides."""
