"""`python -m geumgo.cli`, the same as `geumgo`."""

from geumgo.cli import main

if __name__ == "__main__":
    main()
