"""What a report draws with: colours, marks, charts, and a figure as a file."""
