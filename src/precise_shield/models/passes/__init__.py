"""Forward passes that are listened to, changed, cut short, or run again."""
