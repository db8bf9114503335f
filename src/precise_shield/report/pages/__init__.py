"""What is handed out: the page, the model card's text, the terminal's table, the explorer."""
