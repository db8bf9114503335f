"""Where the neurons sit, and what cells share."""
