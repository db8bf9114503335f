"""Train the neurons and their rivals, search, and measure against the gate."""
