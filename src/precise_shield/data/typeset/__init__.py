"""Writing text into pictures, in the script it is in."""
