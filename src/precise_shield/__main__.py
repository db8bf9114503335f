"""`python -m precise_shield` is `precise-shield`."""

from precise_shield.cli import main

if __name__ == "__main__":
    main()
